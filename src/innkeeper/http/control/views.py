"""Views: what clients of the control plane see of sessions, commands and events."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from innkeeper.core.commands import Command
from innkeeper.core.identity import Caller
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant, isoformat
from innkeeper.http.views import TenantView, is_absent, keyed


def moment(instant: Instant | None) -> str | None:
    return None if instant is None else isoformat(instant)


class ControlSession(TenantView):
    """A session; `session_token` is given once, in the answer that made it, and opens this session only."""

    session_id: str
    name: str | None
    metadata: dict[str, Any]
    status: str
    user_id: str
    message_count: int
    created_at: str
    updated_at: str
    session_token: str | None = None
    key: str | None = Field(default=None, exclude_if=is_absent, description="An id that no other has; for admins.")

    @classmethod
    def of(cls, session: Session, caller: Caller, token: str | None = None) -> ControlSession:
        return cls(
            session_id=session.id,
            name=session.title,
            metadata=dict(session.metadata),
            status="archived" if session.archived else "active",
            user_id=session.user_id,
            message_count=session.message_count,
            created_at=isoformat(session.created_at),
            updated_at=isoformat(session.updated_at),
            session_token=token,
            **keyed(session, caller),
        )


class CommandFailure(BaseModel):
    code: str
    message: str
    details: dict[str, Any] = {}


class CommandView(BaseModel):
    """A command; `result` is what its handler returned."""

    command_id: str
    session_id: str
    command_type: str
    status: str
    result: Any = None
    error: CommandFailure | None = None
    metadata: dict[str, Any]
    trace_id: str
    created_at: str
    started_at: str | None
    ended_at: str | None

    @classmethod
    def of(cls, command: Command) -> CommandView:
        error = command.error
        return cls(
            command_id=command.id,
            session_id=command.session_id,
            command_type=command.command_type,
            status=command.status.value,
            result=command.result,
            error=None
            if error is None
            else CommandFailure(code=error.code, message=error.message, details=dict(error.details)),
            metadata=dict(command.metadata),
            trace_id=command.trace_id,
            created_at=isoformat(command.created_at),
            started_at=moment(command.started_at),
            ended_at=moment(command.ended_at),
        )


class EventView(BaseModel):
    """An event of a session's log; `source` is `server`, `client` or `handler`."""

    event_id: str
    sequence: int
    event_type: str
    data: dict[str, Any]
    metadata: dict[str, Any]
    source: str
    session_id: str
    run_id: str | None
    created_at: str
