"""Sessions of the control plane: the same ones as everywhere, in the words of its clients."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from innkeeper.core.errors import (
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    RunConflict,
    SessionNotFound,
    StorageUnavailable,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.control.views import ControlSession
from innkeeper.http.deps import CallerDep, Limit, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.requests import Named, addressable, printable
from innkeeper.http.routes import needs, surface
from innkeeper.http.sessions import UserId, delete
from innkeeper.http.views import is_absent

router = surface(prefix="/api/sessions", tags=["Control: sessions"])

_READS = problems(Unauthorized, Forbidden, SessionNotFound, Invalid, StorageUnavailable)


class NewSession(BaseModel):
    """Everything may be left out. `metadata.user_id` is kept as it is given and names nobody."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "my session", "metadata": {"project": "my-project"}}]}
    )

    session_id: Named | None = Field(default=None, description="A new id is made if omitted.")
    name: Annotated[str, Field(max_length=1024)] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    _checked_names = field_validator("session_id")(printable)
    _checked_id = field_validator("session_id")(addressable)


class ControlSessions(BaseModel):
    """Newest first. Where there are more, `next` is the `after` that leads on, whatever ids the sessions have."""

    sessions: list[ControlSession]
    has_more: bool
    next: str | None = Field(default=None, exclude_if=is_absent)


@router.post(
    "",
    status_code=201,
    responses=problems(
        Unauthorized, Forbidden, RunConflict, Invalid, IdempotencyMismatch, UnsupportedMediaType, StorageUnavailable
    ),
    openapi_extra=needs("control:write"),
)
async def create_session(
    body: NewSession, request: Request, response: Response, caller: CallerDep, services: ServicesDep
) -> ControlSession:
    """Make a session. The `session_token` in the answer opens this session only, and is not shown again."""
    session, is_repeated, token = await services.sessions.create(
        caller,
        session_id=body.session_id,
        title=body.name,
        metadata=body.metadata,
        with_token=True,
        claim=claim_of(request, request.scope["innkeeper.body"]),
    )
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return ControlSession.of(session, caller, token)


@router.get("", responses=_READS, openapi_extra=needs("control:read"))
async def list_sessions(
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 50,
    after: Annotated[
        str | None, Query(description="The `next` of the page before, or the id of its last session.")
    ] = None,
) -> ControlSessions:
    """Your sessions, newest first; everybody's, for an admin."""
    page, has_more = await services.sessions.page(caller, limit=limit, after=after)
    shown = [ControlSession.of(session, caller) for session in page]
    return ControlSessions(sessions=shown, has_more=has_more, next=page[-1].key if has_more else None)


@router.get("/{session_id}", responses=_READS, openapi_extra=needs("control:read"))
async def get_session(
    session_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> ControlSession:
    """A session: `active`, or `archived`."""
    return ControlSession.of(await services.sessions.get(caller, session_id, user_id), caller)


@router.delete("/{session_id}", status_code=204, responses=_READS, openapi_extra=needs("control:write"))
async def delete_session(session_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None) -> Response:
    """Remove a session with its messages, runs, events, commands, tools and handlers. What runs in it is ended."""
    await delete(services, await services.sessions.get(caller, session_id, user_id))
    return Response(status_code=204)
