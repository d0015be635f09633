"""Chat with files: a turn as a form. The files join the session's workspace, and the message tells the agent of them.

What is written stays in the workspace, also where the run is then refused. A request that is repeated with its
`Idempotency-Key` writes nothing again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import Request
from pydantic import ValidationError
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
    QuotaExceeded,
    RunConflict,
    SessionNotFound,
    ShuttingDown,
    StorageFull,
    StorageUnavailable,
    TooBusy,
    Unauthorized,
    Unparsable,
    UnsupportedMediaType,
)
from innkeeper.core.file_changes import Write
from innkeeper.core.files import Blob, WorkspaceFile
from innkeeper.core.identity import Caller
from innkeeper.core.media_types import guess
from innkeeper.core.messages import Message, Part
from innkeeper.core.paths import safe_name
from innkeeper.core.runs import StartRun
from innkeeper.core.sessions import Session
from innkeeper.http.chat import ChatResponse, Queued, answer_turn, queued, stream
from innkeeper.http.claims import claim_of
from innkeeper.http.deps import CallerDep, Services, house_of
from innkeeper.http.openai.files import FILE, form_of
from innkeeper.http.problems import invalid, problems
from innkeeper.http.requests import ChatRequest
from innkeeper.http.routes import surface
from innkeeper.http.turns import Turn, open_turn
from innkeeper.http.uploads import Form
from innkeeper.services.workspaces import of_session

router = surface(tags=["Chat"])

_PROBLEMS = problems(
    Invalid, IdempotencyMismatch, Unauthorized, Forbidden, NoDefaultAgent, AgentNotFound, RunConflict, PayloadTooLarge,
    QuotaExceeded, Unparsable, UnsupportedMediaType, TooBusy, AgentFailed, NoAgents, ShuttingDown, StorageUnavailable,
    StorageFull,
)  # fmt: skip
_TEXT = {"type": "string"}
_FORM = {
    "message": _TEXT,
    "session_id": _TEXT,
    "user_id": _TEXT,
    "agent_name": _TEXT,
    "when_busy": {"type": "string", "enum": ["queue", "reject", "interrupt"]},
    "on_disconnect": {"type": "string", "enum": ["continue", "cancel"]},
    "background": {"type": "boolean"},
    "files": {"type": "array", "items": FILE},
}
_FIELDS = {"message": "input", "input": "input", **{name: name for name in _FORM if name not in ("message", "files")}}
_FILES = frozenset(("files", "files[]", "file"))


@dataclass(slots=True)
class _Sent:
    """What a form had in it: the files are on disk, and nobody's yet."""

    fields: dict[str, str] = field(default_factory=dict)
    files: list[tuple[str, Blob]] = field(default_factory=list)

    def told(self) -> bytes:
        """The same text for the same request."""
        files = [[name, blob.digest] for name, blob in self.files]
        return json.dumps({"fields": self.fields, "files": files}, sort_keys=True).encode()


@router.post(
    "/chat/with-files",
    response_model=ChatResponse,
    responses={202: {"model": Queued, "description": "Accepted in the background."}, **_PROBLEMS},
    openapi_extra=form_of(_FORM, ["message"], "runs:write"),
)
async def chat_with_files(request: Request, caller: CallerDep) -> Response:
    """Send a message with files: a form with `message`, `session_id`, `user_id`, `agent_name` and up to 10 `files`.

    It may have `when_busy`, `on_disconnect` and `background` as `POST /chat` has them.
    """
    turn = await _open(request, caller, "/chat/with-files", stream=False)
    if turn.started is not None and turn.started.tail is None:
        return queued(turn)
    return await answer_turn(turn, request)


@router.post(
    "/chat/stream/with-files",
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "The events of the run."},
        **_PROBLEMS,
    },
    openapi_extra=form_of(_FORM, ["message"], "runs:write"),
)
async def chat_stream_with_files(request: Request, caller: CallerDep) -> Response:
    """As `POST /chat/with-files`, answered with the events of the run as SSE."""
    return stream(await _open(request, caller, "/chat/stream/with-files", stream=True))


async def _open(request: Request, caller: Caller, endpoint: str, *, stream: bool) -> Turn:
    house = house_of(request)
    services = await house.ready()
    contents, sent = services.files.contents, _Sent()
    are_ours = True
    try:
        await _receive(request, caller, services, sent)
        start = _start(sent, endpoint, stream=stream)
        request._body = sent.told()  # what stands for the form, for the claim and for hooks
        await house.agents.find(start.agent_name)
        claim = claim_of(request, request._body)
        if claim is None or not await services.runs.repeats(caller, replace(start, claim=claim)):
            session = await _session(services, caller, start)
            are_ours = False
            written = await _keep(services, session, sent)
            start = replace(start, session_id=session.id, messages=(_message(sent.fields["input"], written),))
    finally:
        if are_ours:
            contents.drop(blob.id for _, blob in sent.files)
    return await open_turn(request, caller, start)


async def _receive(request: Request, caller: Caller, services: Services, sent: _Sent) -> None:
    """Read the form, its files to where files are kept. Raises: Invalid; what `Form.parts` raises."""
    contents = services.files.contents
    limits = contents.limits
    async for part in Form(request, files=limits.files_at_once, file_bytes=limits.file_bytes).parts():
        if part.filename is None:
            if part.name in _FIELDS:
                sent.fields[_FIELDS[part.name]] = await part.text()
        elif part.name not in _FILES:
            raise Invalid("files: send files in parts called files.", param="files")
        else:
            name = safe_name(part.filename, [name for name, _ in sent.files])
            blob = await contents.write(caller.owner.organization, part.chunks)
            if part.filename or blob.size:
                sent.files.append((name, blob))
            else:  # what browsers send where no file was chosen
                contents.drop((blob.id,))


def _start(sent: _Sent, endpoint: str, *, stream: bool) -> StartRun:
    """Raises: Invalid, naming the field."""
    fields: dict[str, Any] = {name: value for name, value in sent.fields.items() if value or name == "input"}
    if "input" not in fields:
        raise Invalid("message: Field required", param="message")
    if "background" in fields:
        if fields["background"] not in ("true", "false"):
            raise Invalid("background: give true or false.", param="background")
        fields["background"] = fields["background"] == "true"
    try:
        body = ChatRequest.of_query(**fields)
    except ValidationError as error:
        raise invalid(error) from None
    if body.when_busy == "steer":
        raise Invalid("when_busy: a turn with files cannot steer a run.", param="when_busy")
    return body.start(endpoint, stream=stream)


async def _session(services: Services, caller: Caller, start: StartRun) -> Session:
    """The session of the turn, made where there is none."""
    for _ in range(2):
        if start.session_id is not None:
            try:
                found = await services.sessions.get(caller.looking(), start.session_id, start.user_id)
                if found.owner == caller.owner:
                    return found
            except SessionNotFound:
                pass  # it is made next
        try:
            made = await services.sessions.create(
                caller, session_id=start.session_id, user_id=start.user_id, agent_name=start.agent_name
            )
        except RunConflict:
            continue  # made by somebody else meanwhile
        return made.session
    raise RunConflict("The session is being made and deleted by others.", param="session_id")


async def _keep(services: Services, session: Session, sent: _Sent) -> Sequence[WorkspaceFile]:
    """The files as new versions of what the session has under these names."""
    if not sent.files:
        return ()
    place = of_session(session.key, session.owner.organization)
    writes = [Write(name, guess(name, blob.head), blob) for name, blob in sent.files]
    return (await services.workspaces.change(place, writes, author="client")).written


def _message(text: str, files: Sequence[WorkspaceFile]) -> Message:
    """What was said, and what lies in the workspace; agents are handed what is named here (`services.attachments`)."""
    if not files:
        return Message("user", text)
    parts: list[Part] = [{"type": "text", "text": text}]
    parts += [
        {
            "type": "input_file",
            "filename": file.name,
            "workspace_file": {"path": file.path, "version": file.version},
        }
        for file in files
    ]
    return Message("user", tuple(parts))
