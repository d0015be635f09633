"""Commands of a session: asked for, waited for, read and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from starlette.requests import ClientDisconnect

from innkeeper.core.commands import DEFAULT_TIMEOUT, MAX_BATCH, MAX_TIMEOUT, MIN_TIMEOUT, Command, Priority
from innkeeper.core.errors import (
    CommandNotFound,
    Forbidden,
    HandlerNotFound,
    IdempotencyMismatch,
    Invalid,
    PayloadTooLarge,
    SessionNotFound,
    ShuttingDown,
    StorageUnavailable,
    TooBusy,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.core.session_events import TYPE
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.control.views import CommandView
from innkeeper.http.deps import CallerDep, ServicesDep
from innkeeper.http.environments import refuse_variables
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.http.sessions import UserId
from innkeeper.http.traceparents import parent_of, trace_headers
from innkeeper.services.commands import NewCommand

router = surface(prefix="/api/sessions/{session_id}/commands", tags=["Control: commands"])

_READS = problems(Unauthorized, Forbidden, SessionNotFound, CommandNotFound, Invalid, StorageUnavailable)
_WRITES = problems(
    Unauthorized, Forbidden, SessionNotFound, HandlerNotFound, Invalid, IdempotencyMismatch, PayloadTooLarge,
    UnsupportedMediaType, TooBusy, ShuttingDown, StorageUnavailable,
)  # fmt: skip
TypeName = Annotated[str, Field(pattern=f"^{TYPE.pattern}$", strict=True)]
Wait = Annotated[float, Query(ge=0, le=60, allow_inf_nan=False, description="Seconds to wait for its end.")]


class CommandMetadata(BaseModel):
    """`timeout` is in seconds; whatever else is said is kept as it is."""

    model_config = ConfigDict(extra="allow")

    priority: Literal["low", "normal", "high"] = "normal"
    timeout: Annotated[float, Field(strict=True, ge=MIN_TIMEOUT, le=MAX_TIMEOUT, allow_inf_nan=False)] = DEFAULT_TIMEOUT


class CommandRequest(BaseModel):
    """A command for whoever handles its type: a handler of the session, or one of the application."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "command_type": "DummyEngineCommand",
                    "parameters": {"prompt": "Hello, world!"},
                    "metadata": {"priority": "high", "timeout": 30},
                }
            ]
        }
    )

    command_type: TypeName
    parameters: dict[str, Any] = Field(default_factory=dict)
    metadata: CommandMetadata = Field(default_factory=CommandMetadata)

    def asked(self) -> NewCommand:
        return NewCommand(
            command_type=self.command_type,
            parameters=self.parameters,
            metadata=self.metadata.model_dump(exclude_unset=True),
            priority=Priority[self.metadata.priority.upper()],
            timeout=self.metadata.timeout,
        )


class BatchRequest(BaseModel):
    """Commands that run side by side, or, `sequential`, each after the one before has ended, however it did."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "commands": [
                        {"command_type": "DummyEngineCommand", "parameters": {"prompt": "First command"}},
                        {"command_type": "DummyEngineCommand", "parameters": {"prompt": "Second command"}},
                    ]
                }
            ]
        }
    )

    commands: list[CommandRequest] = Field(min_length=1, max_length=MAX_BATCH)
    sequential: StrictBool = False


class CommandBatch(BaseModel):
    commands: list[CommandView]


@router.post("", status_code=201, responses=_WRITES, openapi_extra=needs("control:write"))
async def execute_command(
    session_id: str,
    body: CommandRequest,
    request: Request,
    response: Response,
    caller: CallerDep,
    services: ServicesDep,
    wait: Wait = 0,
    user_id: UserId = None,
) -> CommandView:
    """Have a command executed. The answer comes at once, or, with `wait`, once it has ended or the time is over."""
    refuse_variables(request, "a command")
    control = services.control
    session = await services.sessions.get(caller, session_id, user_id)
    claim = claim_of(request, request.scope["innkeeper.body"])
    (command, *_), is_repeated = await control.commands.accept(
        caller, session, [body.asked()], claim=claim, parent=parent_of(request)
    )
    response.headers.update(trace_headers(request, command.place))
    if is_repeated:
        response.headers[REPLAYED] = "true"
    if wait:
        with suppress(StorageUnavailable):  # it is stored, and must not be asked for again
            command = await _waited(request, control.commands.wait(caller, session, command.id, wait))
    return CommandView.of(command)


@router.post("/batch", status_code=201, responses=_WRITES, openapi_extra=needs("control:write"))
async def execute_batch(
    session_id: str,
    body: BatchRequest,
    request: Request,
    response: Response,
    caller: CallerDep,
    services: ServicesDep,
    user_id: UserId = None,
) -> CommandBatch:
    """Have up to 1,000 commands executed. All are accepted, or none; the answer has them in order."""
    refuse_variables(request, "a command")
    session = await services.sessions.get(caller, session_id, user_id)
    accepted, is_repeated = await services.control.commands.accept(
        caller,
        session,
        [one.asked() for one in body.commands],
        is_sequential=body.sequential,
        claim=claim_of(request, request.scope["innkeeper.body"]),
        parent=parent_of(request),
    )
    response.headers.update(trace_headers(request, accepted[0].place))
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return CommandBatch(commands=[CommandView.of(command) for command in accepted])


@router.get("/{command_id}", responses=_READS, openapi_extra=needs("control:read"))
async def get_command(
    session_id: str,
    command_id: str,
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    wait: Wait = 0,
    user_id: UserId = None,
) -> CommandView:
    """A command and its result; with `wait`, once it has ended or the time is over."""
    commands = services.control.commands
    session = await services.sessions.get(caller, session_id, user_id)
    if wait:
        return CommandView.of(await _waited(request, commands.wait(caller, session, command_id, wait)))
    return CommandView.of(await commands.get(caller, session, command_id))


@router.post("/{command_id}/cancel", status_code=202, responses=_READS, openapi_extra=needs("control:write"))
async def cancel_command(
    session_id: str, command_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> CommandView:
    """Ask a command to end. One that waits ends at once; one that has ended stays as it is."""
    session = await services.sessions.get(caller, session_id, user_id)
    return CommandView.of(await services.control.commands.cancel(caller, session, command_id))


async def _waited(request: Request, waiting: Coroutine[Any, Any, Command]) -> Command:
    """What is waited for; nobody looks for it on behalf of a client that has left. Raises: ClientDisconnect."""
    ending, leaving = asyncio.create_task(waiting), asyncio.create_task(_left(request))
    try:
        await asyncio.wait((ending, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            raise ClientDisconnect
        return ending.result()
    finally:
        ending.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
