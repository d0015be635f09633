"""Sessions: conversations as resources."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator

from innkeeper.core.errors import (
    AgentNotFound,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    RunConflict,
    SessionNotFound,
    StorageUnavailable,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.core.messages import Message
from innkeeper.core.sessions import Session
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.deps import MAX_CURSOR, CallerDep, HouseDep, Limit, Services, ServicesDep
from innkeeper.http.messages import ChatMessage, message
from innkeeper.http.problems import problems
from innkeeper.http.requests import Named, addressable, printable
from innkeeper.http.routes import needs, surface
from innkeeper.http.views import MessageView, SessionView, SessionWithMessages, is_absent

router = surface(prefix="/sessions", tags=["Sessions"])

_READS = problems(Unauthorized, Forbidden, SessionNotFound, Invalid, StorageUnavailable)
_WRITES = problems(Unauthorized, Forbidden, SessionNotFound, Invalid, UnsupportedMediaType, StorageUnavailable)
UserId = Annotated[str | None, Query(description="The end user of the session, where several use its id.")]
Title = Annotated[str, Field(max_length=1024)]


class CreateSessionRequest(BaseModel):
    """A session to make; everything may be left out. `name` is another word for `title`."""

    id: Named | None = Field(default=None, description="A new id is made if omitted.")
    agent_name: Named | None = None
    title: Title | None = None
    name: Title | None = None
    user_id: Named | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    _checked_names = field_validator("id", "agent_name", "user_id")(printable)
    _checked_id = field_validator("id")(addressable)


class UpdateSessionRequest(BaseModel):
    """What to change; what is left out stays. `title: null` removes the title."""

    model_config = ConfigDict(extra="forbid")

    title: Title | None = None
    metadata: dict[str, Any] | None = None
    archived: StrictBool | None = None


class AppendMessagesRequest(BaseModel):
    """One message, or several as `messages`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "user", "content": "Hello!"}]})

    messages: list[ChatMessage] | None = Field(default=None, min_length=1, max_length=1000)
    role: str | None = None
    content: str | list[dict[str, Any]] | None = None

    def checked(self) -> list[Message]:
        """Raises: Invalid."""
        if self.messages is not None:
            return [message(raw, f"messages[{index}]") for index, raw in enumerate(self.messages)]
        if self.role is None:
            raise Invalid("role: Field required", param="role")
        return [message(ChatMessage(role=self.role, content=self.content), "")]


class SessionList(BaseModel):
    """Newest first. Where there are more, `next` is the `after` that leads on, whatever ids the sessions have."""

    sessions: list[SessionView]
    has_more: bool
    next: str | None = Field(default=None, exclude_if=is_absent)


class MessageList(BaseModel):
    messages: list[MessageView]
    has_more: bool


@router.post(
    "",
    status_code=201,
    responses=problems(
        Unauthorized, Forbidden, AgentNotFound, Invalid, IdempotencyMismatch, RunConflict, UnsupportedMediaType,
        StorageUnavailable,
    ),
    openapi_extra=needs("sessions:write"),
)  # fmt: skip
async def create_session(
    body: CreateSessionRequest,
    request: Request,
    response: Response,
    caller: CallerDep,
    services: ServicesDep,
    house: HouseDep,
) -> SessionWithMessages:
    """Make a session."""
    claim = claim_of(request, request.scope["innkeeper.body"])
    if body.agent_name is not None:
        await house.agents.find(body.agent_name)
    session, is_repeated, _ = await services.sessions.create(
        caller,
        session_id=body.id,
        user_id=body.user_id,
        agent_name=body.agent_name,
        title=body.title if body.title is not None else body.name,
        metadata=body.metadata,
        claim=claim,
    )
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return SessionWithMessages.holding(session, [], caller)


@router.get("", responses=_READS, openapi_extra=needs("sessions:read"))
async def list_sessions(
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 50,
    after: Annotated[
        str | None, Query(description="The `next` of the page before, or the id of its last session.")
    ] = None,
    user_id: str | None = None,
    agent_name: str | None = None,
    archived: bool | None = None,
) -> SessionList:
    """Your sessions, newest first; everybody's, for an admin."""
    page, has_more = await services.sessions.page(
        caller, limit=limit, after=after, user_id=user_id, agent_name=agent_name, archived=archived
    )
    shown = [SessionView.of(session, caller) for session in page]
    return SessionList(sessions=shown, has_more=has_more, next=page[-1].key if has_more else None)


@router.get("/{session_id}", responses=_READS, openapi_extra=needs("sessions:read"))
async def get_session(
    session_id: str, caller: CallerDep, services: ServicesDep, limit: Limit | None = None, user_id: UserId = None
) -> SessionWithMessages:
    """A session with all of its messages, or with the last `limit`."""
    session, messages = await services.sessions.messages(caller, session_id, user_id=user_id, limit=limit)
    return SessionWithMessages.holding(session, messages, caller)


@router.patch("/{session_id}", responses=_WRITES, openapi_extra=needs("sessions:write"))
async def update_session(
    session_id: str,
    body: UpdateSessionRequest,
    caller: CallerDep,
    services: ServicesDep,
    user_id: UserId = None,
) -> SessionView:
    """Change a session's title, metadata or archived mark."""
    clears = "title" in body.model_fields_set and body.title is None
    session = await services.sessions.update(
        caller,
        session_id,
        user_id=user_id,
        title=body.title,
        clears_title=clears,
        metadata=body.metadata,
        archived=body.archived,
    )
    return SessionView.of(session, caller)


async def delete(services: Services, session: Session) -> None:
    """End what is under way in a session, and remove it."""
    await services.runs.cancel_session(session)
    await services.sessions.delete(session)
    await services.runs.cancel_session(session)  # whatever began in between
    services.control.commands.cancel_session(session)


@router.delete("/{session_id}", status_code=204, responses=_READS, openapi_extra=needs("sessions:write"))
async def delete_session(session_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None) -> Response:
    """Remove a session with everything that was said in it; what still runs in it is cancelled."""
    session = await services.sessions.get(caller, session_id, user_id)
    await delete(services, session)
    return Response(status_code=204)


@router.get("/{session_id}/messages", responses=_READS, openapi_extra=needs("sessions:read"))
async def list_messages(
    session_id: str,
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 100,
    after: Annotated[
        int, Query(ge=0, le=MAX_CURSOR, description="The position of the last message of the page before.")
    ] = 0,
    user_id: UserId = None,
) -> MessageList:
    """The session's conversation, oldest first."""
    messages, has_more = await services.sessions.page_of_messages(
        caller, session_id, user_id=user_id, limit=limit, after=after
    )
    return MessageList(messages=[MessageView.of(stored) for stored in messages], has_more=has_more)


@router.post(
    "/{session_id}/messages",
    status_code=201,
    responses=problems(
        Unauthorized, Forbidden, SessionNotFound, Invalid, IdempotencyMismatch, UnsupportedMediaType,
        StorageUnavailable,
    ),
    openapi_extra=needs("sessions:write"),
)  # fmt: skip
async def append_messages(
    session_id: str,
    body: AppendMessagesRequest,
    request: Request,
    response: Response,
    caller: CallerDep,
    services: ServicesDep,
    user_id: UserId = None,
) -> MessageList:
    """Add messages to a session without running anything."""
    claim = claim_of(request, request.scope["innkeeper.body"])
    stored, is_repeated = await services.sessions.append(
        caller, session_id, body.checked(), user_id=user_id, claim=claim
    )
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return MessageList(messages=[MessageView.of(one) for one in stored], has_more=False)
