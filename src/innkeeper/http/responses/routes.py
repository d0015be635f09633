"""`/v1/responses`: a response is a run, whichever surface began it."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from innkeeper.core.errors import (
    AgentFailed,
    AgentNotFound,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    NoAgents,
    NoDefaultAgent,
    PreviousRunNotFound,
    RunConflict,
    RunNotFound,
    SessionNotFound,
    ShuttingDown,
    StorageUnavailable,
    TooBusy,
    Unauthorized,
    Unsupported,
)
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.runs import Run, StartRun
from innkeeper.core.usage import Usage
from innkeeper.http.answers import run_headers
from innkeeper.http.deps import MAX_CURSOR, CallerDep, HouseDep, Services, ServicesDep, caller_of, house_of
from innkeeper.http.problems import problems
from innkeeper.http.responses.answering import stream_of, whole_of
from innkeeper.http.responses.compactions import packed
from innkeeper.http.responses.frames import EventEncoder, data_of
from innkeeper.http.responses.lists import ItemList, Order, PageLimit, listed
from innkeeper.http.responses.objects import Json, ResponseObject, shown_usage
from innkeeper.http.responses.preparing import find_previous, is_kept, prepare, read, refusals_by_our_names
from innkeeper.http.responses.requests import InputRequest, ResponseRequest, run_id_of
from innkeeper.http.responses.resuming import answer_resumed
from innkeeper.http.responses.shown import asked_items
from innkeeper.http.responses.wholes import response_of
from innkeeper.http.routes import needs, surface
from innkeeper.http.turns import Answer, Turn, open_turn
from innkeeper.services.identities import checked_user

router = surface(prefix="/v1/responses", tags=["Responses"])

_STARTS = problems(
    Invalid, PreviousRunNotFound, IdempotencyMismatch, Unauthorized, Forbidden, AgentNotFound, SessionNotFound,
    RunConflict, TooBusy, AgentFailed, NoAgents, NoDefaultAgent, ShuttingDown, StorageUnavailable,
)  # fmt: skip
_READS = problems(Unauthorized, Forbidden, RunNotFound, Invalid, StorageUnavailable)
_STREAMS: dict[str, Any] = {"content": {"text/event-stream": {}}, "description": "The response, or its events."}
_CANCEL_SECONDS = 3.0


@router.post("", response_model=ResponseObject, responses={200: _STREAMS, **_STARTS}, openapi_extra=needs("runs:write"))
async def create_response(body: ResponseRequest, request: Request) -> Response:
    """Run the agent that `model` names on this input, and what it follows."""
    services, caller = await house_of(request).ready(), caller_of(request)
    prepared = await prepare(services, caller, body, request.scope["path"])
    if not isinstance(prepared.what, StartRun):
        return await answer_resumed(request, prepared.caller, prepared.what, in_background=bool(body.background))
    with refusals_by_our_names():
        turn = await open_turn(request, prepared.caller, prepared.what)
    if turn.started is not None and turn.started.tail is None:
        return await _in_background(prepared.caller, turn, prepared.what.stream)
    if prepared.what.stream:
        run = turn.tail.run
        return stream_of(turn.watch(), run, EventEncoder(run), turn)
    return await whole_of(request, turn)


async def _in_background(caller: Caller, turn: Turn, streams: bool) -> Response:
    assert turn.started is not None, "the turn has been started"
    run = turn.started.run
    if streams:
        reading = await turn.services.runs.follow(caller, run.id)
        return stream_of(reading, run, EventEncoder(run), turn)
    shown = await response_of(turn.services, run)
    return Answer(turn, data_of(shown), headers=run_headers(turn))


async def _find(services: Services, caller: Caller, named: str) -> Run:
    """Raises: RunNotFound, also for a response that is not stored."""
    try:
        run = await services.runs.get(caller, run_id_of(named))
    except RunNotFound:
        run = None
    if run is None or not is_kept(run):
        raise RunNotFound(f"Response with id {named[:100]!r} not found.", param="response_id")
    return run


@router.get(
    "/{response_id}", response_model=ResponseObject, responses={200: _STREAMS, **_READS},
    openapi_extra=needs("runs:read"),
)  # fmt: skip
async def get_response(
    response_id: str,
    caller: CallerDep,
    services: ServicesDep,
    stream: bool = False,
    starting_after: Annotated[
        int, Query(ge=-1, le=MAX_CURSOR, description="With `stream`: begin behind the event of this number.")
    ] = -1,
) -> Response:
    """A response; with `stream`, its events from the beginning or from behind `starting_after`, then live."""
    run = await _find(services, caller, response_id)
    if stream:
        reading = await services.runs.follow(caller, run.id)
        return stream_of(reading, run, EventEncoder(run, after=starting_after), None)
    return _json(await response_of(services, run))


def _json(shown: Json) -> Response:
    return Response(data_of(shown), media_type="application/json")


class Deleted(BaseModel):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


@router.delete("/{response_id}", responses={**_READS, **problems(RunConflict)}, openapi_extra=needs("runs:write"))
async def delete_response(response_id: str, caller: CallerDep, services: ServicesDep) -> Deleted:
    """Forget a response; what was said stays in its conversation. One that goes on is cancelled first."""
    run = await _find(services, caller, response_id)
    await services.runs.delete(caller, run.id)
    return Deleted(id=response_id)


@router.post(
    "/{response_id}/cancel", response_model=ResponseObject, responses=_READS, openapi_extra=needs("runs:write")
)
async def cancel_response(response_id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """End a response, in the background or not. One that has ended stays as it is."""
    run = await _find(services, caller, response_id)
    await services.runs.cancel(caller, run.id)
    await services.runs.wait(caller, run.id, _CANCEL_SECONDS)
    return _json(await response_of(services, await services.runs.get(caller, run.id)))


@router.get("/{response_id}/input_items", responses=_READS, openapi_extra=needs("runs:read"))
async def list_input_items(
    response_id: str,
    caller: CallerDep,
    services: ServicesDep,
    limit: PageLimit = 20,
    order: Order = "desc",
    after: Annotated[str | None, Query(description="The id of the last item of the page before.")] = None,
) -> ItemList:
    """What this response was asked, as items; not what it followed."""
    run = await _find(services, caller, response_id)
    return listed(asked_items(run), limit, order, after)


class Compaction(BaseModel):
    """A conversation as one item. No model was asked, so its usage is nothing."""

    id: str
    object: Literal["response.compaction"] = "response.compaction"
    created_at: int
    output: list[dict[str, Any]]
    usage: dict[str, Any]


@router.post("/compact", response_model=Compaction, responses=_STARTS, openapi_extra=needs("runs:write"))
async def compact(body: InputRequest, request: Request) -> Response:
    """Put a conversation into one item, word for word, to be sent back in its place."""
    house, caller = house_of(request), caller_of(request)
    services, user = await house.ready(), checked_user(caller, body.end_user)
    await house.agents.find(body.model)
    before: tuple[Message, ...] = ()
    if body.previous_response_id is not None:
        previous = await find_previous(services, caller, body.previous_response_id, user)
        before = tuple(await services.sessions.until(caller, previous.id))
    given = await read(services, caller, body)
    messages = (*before, *given.messages)
    if not messages:
        raise Invalid("input: there is nothing to compact; send input or previous_response_id.", param="input")
    new_id = house.new_id()
    item = {"id": f"cmp_{new_id}", "type": "compaction", "encrypted_content": packed(messages)}
    shown = {"id": f"resp_{new_id}", "object": "response.compaction", "created_at": int(time.time()), "output": [item]}
    return _json({**shown, "usage": shown_usage(Usage(0, 0))})


@router.post("/input_tokens", responses=problems(Invalid, Unsupported, Unauthorized, Forbidden, AgentNotFound),
             openapi_extra=needs("runs:write"))  # fmt: skip
async def count_input_tokens(body: InputRequest, caller: CallerDep, house: HouseDep) -> dict[str, Any]:
    """Refused: what an agent sends its model is known only when it does, and nothing is estimated."""
    checked_user(caller, body.end_user)
    await house.agents.find(body.model)
    raise Unsupported(
        "Input tokens cannot be counted beforehand: an agent decides what its model is sent. The usage of a response"
        " tells what it took.",
        param="model",
    )
