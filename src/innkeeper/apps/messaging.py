"""Messaging: the bus in Python. Handlers of an application or of the whole process, commands and events from code.

`bus` is process-wide, as `register_agent` is: its handlers serve every app of this process, and what is executed or
published through it goes to the app that is served on this event loop; from another loop, such as that of an isolated
agent or of `asyncio.run` in a thread, to the one app that is served in the process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from innkeeper.core.commands import DEFAULT_TIMEOUT, CommandStatus
from innkeeper.core.context import get_context
from innkeeper.core.errors import CommandFailed, RunConflict, SessionNotFound, SetupError
from innkeeper.core.events import json_bytes
from innkeeper.core.handling import Command, Event, as_data, metadata_of, told_by
from innkeeper.core.identity import LOCAL_CALLER, Caller
from innkeeper.core.sessions import Session
from innkeeper.core.tokens import IMPERSONATE
from innkeeper.services.commands import NewCommand
from innkeeper.services.handlers import Function, Handlers
from innkeeper.services.handling import current_command
from innkeeper.services.session_log import NewEvent
from innkeeper.wiring import Started
from innkeeper.wiring.kernels import kernels

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

Decorator = Callable[..., Callable[[F], F]]

DEFAULT_SESSION = "bus"
"""The session of what is executed and published where none is named and none is at hand."""


class Bus:
    """Registers handlers, executes commands and publishes events, in this process."""

    def __init__(self) -> None:
        self.handlers = Handlers()
        self.command = command_decorator(self.handlers)
        self.event = event_decorator(self.handlers)

    def register_command_handler(
        self, kind: str | type[Command], handler: Function, session_id: str | None = None, *, idempotent: bool = False
    ) -> None:
        """Call `handler` with each command of a type; with a `session_id`, with those of that session only.

        `kind` is a subclass of `Command`, of which the handler is then given an instance, or the type's name. An
        `idempotent` handler is called again where its process dies; any other leaves its command failed.

        Raises: HandlerConflict for a second one in the same scope; Invalid for a type that cannot be named.
        """
        self.handlers.add_command(kind, handler, session_id=session_id, is_idempotent=idempotent)

    def register_event_handler(
        self, kind: str | type[Event], handler: Function, session_id: str | None = None, *, idempotent: bool = False
    ) -> None:
        """Call `handler`, beside others, with each event of a type; see `register_command_handler`."""
        self.handlers.add_event(kind, handler, session_id=session_id, is_idempotent=idempotent)

    def unregister_command_handler(self, kind: str | type[Command], session_id: str | None = None) -> bool:
        """Whether there was one."""
        return self.handlers.remove_command(kind, session_id=session_id)

    def unregister_event_handlers(self, kind: str | type[Event], session_id: str | None = None) -> bool:
        """Whether there were any."""
        return self.handlers.remove_event(kind, session_id=session_id)

    async def execute(
        self,
        command: Command,
        session_id: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - the server keeps it, wherever the command is executed
    ) -> Any:
        """What the handler of a command returns, as JSON has it.

        The session is the one named, else that of the handler or the run that this is called from, else `bus`.

        Raises: HandlerNotFound; CommandFailed if it fails, is cancelled, or does not end within `timeout` seconds;
        Invalid for a `timeout` that is not 1 to 600; SessionNotFound; SetupError where no app of Innkeeper is served
        in this process.
        """
        command_type, parameters = told_by(command)
        asked = NewCommand(command_type, _as_json(parameters), _as_json(metadata_of(command)), timeout=timeout)
        return await _where_served(partial(self._execute, asked, session_id))

    async def _execute(self, asked: NewCommand, session_id: str | None, started: Started) -> Any:
        caller, session = await _place(started, session_id)
        (accepted, *_), _ = await started.control.commands.accept(caller, session, [asked])
        ended = await started.control.commands.wait(caller, session, accepted.id, asked.timeout + 60.0)
        if ended.status is CommandStatus.COMPLETED:
            return ended.result
        told = ended.error.message if ended.error is not None else f"It is {ended.status.value}."
        raise CommandFailed(
            f"{asked.command_type}: {told}", details={"command_id": ended.id, "status": ended.status.value}
        )

    async def publish(self, event: Event, session_id: str | None = None) -> str:
        """Add an event to a session's log, and have its handlers called; returns its id. See `execute` for the session.

        Raises: Invalid; SessionNotFound; SetupError.
        """
        event_type, data = told_by(event)
        new = NewEvent(event_type, _as_json(data), _as_json(metadata_of(event)), "handler")
        return await _where_served(partial(self._publish, new, session_id))

    async def _publish(self, new: NewEvent, session_id: str | None, started: Started) -> str:
        _, session = await _place(started, session_id)
        stored, _ = await started.control.log.publish(session, new)
        return stored.event_id


def _as_json(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """A copy as every process will read it, which nobody changes afterwards."""
    copy: Mapping[str, Any] = json.loads(json_bytes(as_data(dict(told))))
    return copy


async def _where_served(work: Callable[[Started], Coroutine[Any, Any, T]]) -> T:
    """`work` on the services of the app that is served here, or else of the only one that is served in this process; an
    only one that has been made and not started yet is started.
    """
    here = [kernel for kernel in kernels if kernel.is_started_here]
    elsewhere = [] if here else [started for kernel in kernels if (started := kernel.serving) is not None]
    if len(elsewhere) == 1:
        working = asyncio.run_coroutine_threadsafe(work(elsewhere[0]), elsewhere[0].loop)
        return await asyncio.wrap_future(working)
    if not here and (elsewhere or len(kernels) != 1):
        raise SetupError("No app of Innkeeper is served on this event loop. Make one with create_app() and enter it.")
    return await work(await (here or list(kernels))[-1].start())


async def _place(started: Started, session_id: str | None) -> tuple[Caller, Session]:
    """On whose behalf, and in which session."""
    here = current_command() or get_context()
    owner = None if here is None else here.owner
    caller = LOCAL_CALLER if owner is None else Caller(owner, scopes=frozenset({IMPERSONATE}))
    if session_id is None and here is not None and here.session_id is not None:
        # its owner may have several of that name, each of another end user
        return caller, await started.sessions.get(caller, here.session_id, here.user_id)
    if session_id is not None:
        return caller, await _called(started, caller, session_id, None if here is None else here.user_id)
    try:
        return caller, await started.sessions.get(caller, DEFAULT_SESSION)
    except SessionNotFound:
        try:
            return caller, (await started.sessions.create(caller, session_id=DEFAULT_SESSION)).session
        except RunConflict:
            return caller, await started.sessions.get(caller, DEFAULT_SESSION)


async def _called(started: Started, caller: Caller, session_id: str, user_id: str | None) -> Session:
    """Of several that are called so, that of the end user on whose behalf the calling code runs, if there is one."""
    if user_id is not None:
        with suppress(SessionNotFound):
            return await started.sessions.get(caller, session_id, user_id)
    return await started.sessions.get(caller, session_id)


def command_decorator(handlers: Handlers) -> Decorator[Any]:
    """`@app.command(kind)` for an application."""

    def command(
        kind: str | type[Command], *, session_id: str | None = None, idempotent: bool = False
    ) -> Callable[[F], F]:
        """Make a function the handler of a type's commands; see `Bus.register_command_handler`."""

        def register(function: F) -> F:
            handlers.add_command(kind, function, session_id=session_id, is_idempotent=idempotent)
            return function

        return register

    return command


def event_decorator(handlers: Handlers) -> Decorator[Any]:
    """`@app.event(kind)` for an application."""

    def event(kind: str | type[Event], *, session_id: str | None = None, idempotent: bool = False) -> Callable[[F], F]:
        """Have a function called with a type's events; see `Bus.register_event_handler`."""

        def register(function: F) -> F:
            handlers.add_event(kind, function, session_id=session_id, is_idempotent=idempotent)
            return function

        return register

    return event


bus = Bus()
