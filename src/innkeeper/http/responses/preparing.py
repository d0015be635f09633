"""Preparing: a request of Responses becomes what is to be started, or what a run that waits is told.

What a request refers to must be the caller's own: an earlier response, a conversation, an item, a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from innkeeper.core.actions import Action, Answer
from innkeeper.core.errors import (
    AgentNotFound,
    InnkeeperError,
    Invalid,
    NoDefaultAgent,
    PreviousRunNotFound,
    RunNotFound,
    SessionNotFound,
    Unsupported,
)
from innkeeper.core.events import json_bytes
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.runs import UNDER_WAY, Run, RunStatus, StartRun
from innkeeper.core.sessions import Session
from innkeeper.http.bodies import parse_json
from innkeeper.http.deps import Services
from innkeeper.http.responses.items import Input, Item, read_input, references
from innkeeper.http.responses.requests import InputRequest, ResponseRequest, check_request, run_id_of, start_run
from innkeeper.http.responses.shown import asked_items
from innkeeper.http.responses.wholes import response_of
from innkeeper.services.pauses import ResumeRequest

_LOOKED_BACK = 200
_RUNS_LOOKED_BACK = 3
_MAX_REFERENCES = 500


_OUR_NAMES = {"response_format": "text.format"}


@contextmanager
def refusals_by_our_names() -> Iterator[None]:
    """What is refused as the run is accepted is named as a request for a response has it."""
    try:
        yield
    except (AgentNotFound, NoDefaultAgent) as error:
        error.param = "model"
        raise
    except Unsupported as error:
        error.param = _OUR_NAMES.get(error.param or "", error.param)
        raise


@contextmanager
def answers_by_our_names() -> Iterator[None]:
    """What is refused as a run is to go on: its answers are the input of a request for a response."""
    try:
        yield
    except InnkeeperError as error:
        error.param = "input" if error.param == "answers" else error.param
        raise


@dataclass(frozen=True, slots=True)
class Prepared:
    """What to do for whom."""

    caller: Caller
    what: StartRun | ResumeRequest


async def prepare(
    services: Services, caller: Caller, body: ResponseRequest, endpoint: str, before: Sequence[Message] = ()
) -> Prepared:
    """Look up what the request refers to; `before` is what a WebSocket remembers of what it follows.

    Raises: Invalid, Unsupported, PreviousRunNotFound, SessionNotFound, Forbidden, StorageUnavailable.
    """
    check_request(body)
    given = await read(services, caller, body)
    session = await _conversation(services, caller, body)
    if given.approvals or given.unmatched:
        acting = caller if session is None else caller.acting_for(session.owner)
        waiting = await _asking(services, acting, body, given)
        if waiting is not None:
            return Prepared(acting, await _answers(services, waiting, given, bool(body.stream)))
    if session is not None and session.owner != caller.owner:  # nothing is said there in its owner's name
        raise _no_conversation(body.conversation_id)
    if given.approvals:
        raise Invalid(
            "input: an approval answers the response that asked for it; name that as previous_response_id, or its"
            " conversation.",
            param="input",
        )
    if given.unmatched:
        _check_calls(given, before or await _said_before(services, caller, body))
    start = start_run(body, endpoint, (*before, *given.messages))
    if start.follows is not None and not start.recorded:
        history = await _history(services, caller, body)
        start = replace(start, messages=(*history, *start.messages), follows=None)
    return Prepared(caller, start)


async def _conversation(services: Services, caller: Caller, body: ResponseRequest) -> Session | None:
    if (session_id := body.conversation_id) is None:
        return None
    try:
        return await services.sessions.get(caller, session_id, body.end_user)
    except SessionNotFound:
        raise _no_conversation(session_id) from None


def _no_conversation(session_id: str | None) -> SessionNotFound:
    return SessionNotFound(f"Session {session_id!r} does not exist.", param="conversation")


async def read(services: Services, caller: Caller, body: InputRequest) -> Input:
    """The messages of a request's input. Raises: Invalid."""
    sent = body.input if body.input is not None else []
    return read_input(sent, await _referred(services, caller, references(sent), body.end_user))


async def find_previous(services: Services, caller: Caller, response_id: str, user: str | None = None) -> Run:
    """One of the caller's own, of this end `user` if one is named. Raises: PreviousRunNotFound, whatever the reason."""
    run = await _own(services, caller, response_id, user)
    if not is_kept(run):
        raise _no_previous(response_id)
    return run


async def _own(services: Services, caller: Caller, response_id: str, user: str | None) -> Run:
    """As `find_previous`, but also what is not stored and has not ended. Raises: PreviousRunNotFound."""
    try:
        run = await services.runs.get(caller, run_id_of(response_id))
    except RunNotFound:
        run = None
    if run is None or run.owner != caller.owner or user not in (None, run.user_id):
        raise _no_previous(response_id)
    return run


def _no_previous(response_id: str) -> PreviousRunNotFound:
    return PreviousRunNotFound(f"Previous response {response_id!r} not found.", param="previous_response_id")


def is_kept(run: Run) -> bool:
    """Whether the run was to be recorded; the contents of others are gone once they have ended."""
    return (run.request or {}).get("store") is not False and bool(run.input)


async def _asking(services: Services, caller: Caller, body: ResponseRequest, given: Input) -> Run | None:
    """The run that asked for what the input decides: the one that is followed, or one of the conversation.

    One that waits for people is found though it is not to be stored, as it could not be answered otherwise; and one
    that has gone on since, as the request may be made again.
    """
    decided = {one.action_id for one in given.approvals} | {call_id for call_id, _ in given.unmatched}
    if (named := body.previous_response_id) is None:
        return await _asking_in(services, caller, body, decided)
    previous = await _own(services, caller, named, body.end_user)
    if previous.status is RunStatus.REQUIRES_ACTION:
        return previous
    if not is_kept(previous):
        raise _no_previous(named)
    return previous if given.approvals or await _has_asked(services, previous, decided) else None


async def _asking_in(services: Services, caller: Caller, body: ResponseRequest, decided: Collection[str]) -> Run | None:
    if body.conversation_id is None:
        return None
    page = partial(services.runs.page, caller, session_id=body.conversation_id, user_id=body.end_user)
    waiting, _ = await page(limit=1, status=RunStatus.REQUIRES_ACTION)
    latest, _ = await page(limit=_RUNS_LOOKED_BACK)
    for run in (*waiting, *latest):
        if await _has_asked(services, run, decided):
            return run
    return None


async def _has_asked(services: Services, run: Run, decided: Collection[str]) -> bool:
    return any(one.action.id in decided for one in await services.runs.pauses.of_run(run.id))


async def _history(services: Services, caller: Caller, body: ResponseRequest) -> Sequence[Message]:
    """What was said up to the end of a response, for one that is not to be stored with it."""
    response_id = body.previous_response_id or ""
    previous = await find_previous(services, caller, response_id, body.end_user)
    if previous.status in UNDER_WAY:
        raise Invalid(f"Previous response {response_id!r} has not ended yet.", param="previous_response_id")
    return await services.sessions.until(caller, previous.id)


async def _said_before(services: Services, caller: Caller, body: ResponseRequest) -> Sequence[Message]:
    if body.previous_response_id is not None:
        return await services.sessions.until(caller, run_id_of(body.previous_response_id))
    if (session_id := body.conversation_id) is None:
        return ()
    _, stored = await services.sessions.messages(caller, session_id, user_id=body.end_user, limit=_LOOKED_BACK)
    return [one.message for one in stored]


def _check_calls(given: Input, before: Sequence[Message]) -> None:
    known = {use.id for said in before for use in said.tool_calls}
    for call_id, _ in given.unmatched:
        if call_id not in known:
            raise Invalid(f"No tool call found for function call output with call_id {call_id}.", param="input")


async def _referred(services: Services, caller: Caller, ids: Sequence[str], user: str | None) -> Mapping[str, Item]:
    """The items that a request refers to by their ids, which tell the runs whose input or output they are."""
    if len(ids) > _MAX_REFERENCES:
        raise Invalid(f"input: at most {_MAX_REFERENCES} items can be referred to.", param="input")
    runs = {f"run_{parts[1]}" for one in ids if len(parts := one.split("_")) == 3 and not one.startswith("rs_")}
    found: dict[str, Item] = {one: {"type": "reasoning", "id": one} for one in ids if one.startswith("rs_")}
    for told in await asyncio.gather(*(_items_of(services, caller, run_id, user) for run_id in runs)):
        found |= told
    return found


async def _items_of(services: Services, caller: Caller, run_id: str, user: str | None) -> Mapping[str, Item]:
    try:
        run = await services.runs.get(caller, run_id)
    except RunNotFound:
        return {}
    if not is_kept(run) or user not in (None, run.user_id):
        return {}
    output = (await response_of(services, run))["output"]
    return {item["id"]: item for item in (*asked_items(run), *output)}


async def _answers(services: Services, run: Run, given: Input, stream: bool) -> ResumeRequest:
    """What the input says to the actions that a run has asked for. Whether it waits for them, the store decides.

    Raises: Invalid.
    """
    asked = await services.runs.pauses.of_run(run.id)
    actions = {one.action.id: one.action for one in asked}
    answers = [
        Answer(one.action_id, "approve" if one.approves else "deny", message=one.reason) for one in given.approvals
    ]
    answers += [_answer(actions, call_id, given.messages[at]) for call_id, at in given.unmatched]
    if len(given.unmatched) < len(given.messages):
        raise Invalid(f"Response {run.id.removeprefix('run_')!r} waits for decisions; send them alone.", param="input")
    for answer in answers:
        if answer.action_id not in actions:
            raise Invalid(f"No approval was asked for with id {answer.action_id!r}.", param="input")
    return ResumeRequest(run.id, tuple(answers), stream=stream)


def _answer(actions: Mapping[str, Action], call_id: str, said: Message) -> Answer:
    action = actions.get(call_id)
    if action is None or action.kind != "input":
        raise Invalid(f"No tool call found for function call output with call_id {call_id}.", param="input")
    return Answer(call_id, "answer", value=_as_json(said.text))


def _as_json(text: str) -> str:
    """The output as it is where it is JSON, else as a JSON string."""
    try:
        parse_json(text.encode())
    except Exception:  # noqa: BLE001 - whatever it is, it is text then
        return json_bytes(text).decode()
    return text
