"""Native chat: a turn over plain HTTP or SSE. The WebSocket is in `http.sockets`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Header, Query, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import Response

from innkeeper.core.errors import (
    AgentFailed,
    AgentNotFound,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    NoAgents,
    NoDefaultAgent,
    PayloadTooLarge,
    RunConflict,
    ShuttingDown,
    StorageUnavailable,
    TooBusy,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.core.events import shown_usage
from innkeeper.http.answers import failed, run_headers
from innkeeper.http.deps import caller_of
from innkeeper.http.frames import DONE, SseEncoder, error_frame, farewell_frame, marker
from innkeeper.http.problems import facts, invalid, problem_of, problems
from innkeeper.http.requests import ChatRequest
from innkeeper.http.routes import needs, request_id_of, surface
from innkeeper.http.turns import Answer, Stream, Turn, open_turn, wait_for_end
from innkeeper.http.views import ActionView, UsageView, is_absent

router = surface(tags=["Chat"])
stream_router = surface(tags=["Chat"])

_PROBLEMS = problems(
    Invalid, IdempotencyMismatch, Unauthorized, Forbidden, NoDefaultAgent, AgentNotFound, RunConflict, PayloadTooLarge,
    UnsupportedMediaType, TooBusy, AgentFailed, NoAgents, ShuttingDown, StorageUnavailable,
)  # fmt: skip
SSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The events of the run."}
}


class ChatResponse(BaseModel):
    """The answer to a turn; `usage` is null where the agent reported none.

    A run that waits for people says so in `status`, with what it waits for in `actions`.
    """

    output: str
    agent_name: str
    session_id: str
    run_id: str = ""
    trace_id: str = ""
    steps: int = 0
    usage: UsageView | None = None
    status: Literal["requires_action"] | None = Field(default=None, exclude_if=is_absent)
    actions: list[ActionView] | None = Field(default=None, exclude_if=is_absent)


class Queued(BaseModel):
    """A run in the background has been accepted: `GET /runs/{run_id}` tells what becomes of it."""

    run_id: str
    session_id: str
    agent_name: str
    trace_id: str
    status: str = "queued"


@router.post(
    "/chat",
    response_model=ChatResponse,
    responses={**SSE, 202: {"model": Queued, "description": "Accepted in the background."}, **_PROBLEMS},
    openapi_extra=needs("runs:write"),
)
async def chat(body: ChatRequest, request: Request) -> Response:
    """Send a message to an agent and get its answer; with `stream`, the events of the run as SSE.

    With `background` the run is accepted at once and survives this server.
    """
    turn = await open_turn(request, caller_of(request), body.start("/chat", stream=body.stream))
    if body.background:
        return queued(turn)
    if body.stream:
        return stream(turn)
    return await answer_turn(turn, request)


async def answer_turn(turn: Turn, request: Request) -> Response:
    """Wait for the end of the turn's run, or for its pause, and tell it whole."""
    ending = await wait_for_end(turn, request.receive)
    if ending.status not in ("completed", "requires_action"):
        return failed(turn, ending, request_id_of(request.scope))
    run, usage = turn.tail.run, shown_usage(ending.usage)
    told = ChatResponse(
        output=ending.output,
        agent_name=run.agent_name,
        session_id=run.session_id,
        run_id=run.id,
        trace_id=run.trace_id,
        steps=ending.steps,
        usage=None if usage is None else UsageView(**usage),
        status="requires_action" if ending.status == "requires_action" else None,
        actions=[ActionView.of(one) for one in ending.actions] or None,
    )
    return Answer(turn, told.model_dump_json().encode(), headers=run_headers(turn))


def queued(turn: Turn) -> Answer:
    """What is told of a run that was accepted in the background."""
    assert turn.started is not None, "the turn has been started"
    run = turn.started.run
    told = Queued(run_id=run.id, session_id=run.session_id, agent_name=run.agent_name, trace_id=run.trace_id)
    return Answer(turn, told.model_dump_json().encode(), 202, run_headers(turn))


@router.post("/chat/stream", responses={**SSE, **_PROBLEMS}, openapi_extra=needs("runs:write"))
async def chat_stream(body: ChatRequest, request: Request) -> Response:
    """As `POST /chat` with `stream`."""
    return stream(await open_turn(request, caller_of(request), body.start("/chat/stream", stream=True)))


@stream_router.get("/stream", responses={**SSE, **_PROBLEMS}, openapi_extra=needs("runs:write"))
async def stream_get(
    request: Request,
    input: Annotated[str, Query(description="What to say to the agent.")],
    agent_name: str | None = None,
    session_id: str | None = None,
    user_id: str | None = None,
    sec_fetch_site: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """A turn for clients that can only GET, such as a browser's `EventSource`. Pages of other sites are refused."""
    if sec_fetch_site not in (None, "same-origin", "none"):
        raise Forbidden("Pages of other sites may not start a run.")
    try:
        body = ChatRequest.of_query(input=input, agent_name=agent_name, session_id=session_id, user_id=user_id)
    except ValidationError as error:
        raise invalid(error) from None
    return stream(await open_turn(request, caller_of(request), body.start("/stream", stream=True)))


def stream(turn: Turn) -> Stream:
    """The turn's events as SSE."""
    return Stream(
        turn.watch(),
        SseEncoder(),
        on_trouble=lambda error: error_frame(facts(problem_of(type(error)), str(error))) + DONE,
        at_end=marker,
        farewell=partial(farewell_frame, turn.tail.run.id),
        turn=turn,
        headers=run_headers(turn),
    )
