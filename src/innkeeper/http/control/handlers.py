"""Handlers of a session, as source code: for commands, one a type, and for events, any number a type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Response
from pydantic import BaseModel, ConfigDict

from innkeeper.core.errors import (
    CodeExecutionDisabled,
    Forbidden,
    HandlerConflict,
    HandlerNotFound,
    IdempotencyMismatch,
    Invalid,
    PayloadTooLarge,
    SessionNotFound,
    SourceRejected,
    StorageUnavailable,
    TooBusy,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.core.identity import Caller
from innkeeper.core.sessions import Session
from innkeeper.core.sources import HandlerDeclaration, HandlerKind
from innkeeper.core.times import isoformat
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.control.commands import TypeName
from innkeeper.http.deps import CallerDep, Services, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.http.sessions import UserId

router = surface(prefix="/api/sessions/{session_id}/handlers", tags=["Control: handlers"])

_READS = problems(Unauthorized, Forbidden, SessionNotFound, HandlerNotFound, Invalid, StorageUnavailable)
_REMOVES = {**_READS, **problems(CodeExecutionDisabled)}
_WRITES = problems(
    Unauthorized, CodeExecutionDisabled, SessionNotFound, HandlerConflict, Invalid, SourceRejected,
    IdempotencyMismatch, PayloadTooLarge, UnsupportedMediaType, TooBusy, StorageUnavailable,
)  # fmt: skip


class NewCommandHandler(BaseModel):
    """The source of a function that takes a command: a dict with `command_type`, `parameters` and `metadata`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "command_type": "Greet",
                    "handler_function": "async def handle(command):\n    return command['parameters']['name'].upper()",
                }
            ]
        }
    )

    command_type: TypeName
    handler_function: str


class NewEventHandler(BaseModel):
    """The source of a function that takes an event, a dict as events are shown."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "event_type": "DummyEngineStatusUpdate",
                    "handler_function": "async def handle(event):\n    await set_state('last', event['sequence'])",
                }
            ]
        }
    )

    event_type: TypeName
    handler_function: str


class HandlerView(BaseModel):
    handler_id: str
    kind: str
    type: str
    session_id: str
    created_at: str

    @classmethod
    def of(cls, handler: HandlerDeclaration, session_id: str) -> HandlerView:
        return cls(
            handler_id=handler.id,
            kind=handler.kind,
            type=handler.type,
            session_id=session_id,
            created_at=isoformat(handler.created_at),
        )


class HandlerList(BaseModel):
    handlers: list[HandlerView]
    total: int


@dataclass(frozen=True, slots=True)
class Registrar:
    """Who registers a handler in which session, and the request that says so."""

    session_id: str
    request: Request
    response: Response
    caller: CallerDep
    services: ServicesDep
    user_id: UserId = None


RegistrarDep = Annotated[Registrar, Depends()]


async def _register(by: Registrar, kind: HandlerKind, type: str, source: str) -> HandlerView:
    session = await by.services.sessions.get(by.caller, by.session_id, by.user_id)
    claim = claim_of(by.request, by.request.scope["innkeeper.body"])
    handler, is_repeated = await by.services.control.code.add_handler(by.caller, session, kind, type, source, claim)
    if is_repeated:
        by.response.headers[REPLAYED] = "true"
    return HandlerView.of(handler, session.id)


async def _listed(session: Session, services: Services, kind: HandlerKind) -> HandlerList:
    handlers = await services.control.code.registered(session, kind)
    return HandlerList(handlers=[HandlerView.of(one, session.id) for one in handlers], total=len(handlers))


async def _unregister(session: Session, caller: Caller, services: Services, kind: HandlerKind, type: str) -> Response:
    await services.control.code.remove_handlers(caller, session, kind, type)
    return Response(status_code=204)


@router.post("/commands", status_code=201, responses=_WRITES, openapi_extra=needs("control:write"))
async def register_command_handler(body: NewCommandHandler, by: RegistrarDep) -> HandlerView:
    """Handle this session's commands of a type, before any handler of the application."""
    return await _register(by, "command", body.command_type, body.handler_function)


@router.post("/events", status_code=201, responses=_WRITES, openapi_extra=needs("control:write"))
async def register_event_handler(body: NewEventHandler, by: RegistrarDep) -> HandlerView:
    """Hear of this session's events of a type."""
    return await _register(by, "event", body.event_type, body.handler_function)


@router.get("/commands", responses=_READS, openapi_extra=needs("control:read"))
async def list_command_handlers(
    session_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> HandlerList:
    """The command handlers that are registered in this session."""
    return await _listed(await services.sessions.get(caller, session_id, user_id), services, "command")


@router.get("/events", responses=_READS, openapi_extra=needs("control:read"))
async def list_event_handlers(
    session_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> HandlerList:
    """The event handlers that are registered in this session."""
    return await _listed(await services.sessions.get(caller, session_id, user_id), services, "event")


@router.delete("/commands/{command_type}", status_code=204, responses=_REMOVES, openapi_extra=needs("control:write"))
async def unregister_command_handler(
    session_id: str, command_type: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> Response:
    """Forget the session's handler for commands of a type."""
    session = await services.sessions.get(caller, session_id, user_id)
    return await _unregister(session, caller, services, "command", command_type)


@router.delete("/events/{event_type}", status_code=204, responses=_REMOVES, openapi_extra=needs("control:write"))
async def unregister_event_handlers(
    session_id: str, event_type: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> Response:
    """Forget all of the session's handlers for events of a type."""
    session = await services.sessions.get(caller, session_id, user_id)
    return await _unregister(session, caller, services, "event", event_type)
