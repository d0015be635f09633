"""Handling: one command or reaction given to its handler, wherever that is: in Python, or in the sandbox.

Knows neither the queue nor the journal: what comes of a call is for whoever asked.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from innkeeper.core.commands import Command
from innkeeper.core.context import get_context
from innkeeper.core.errors import CommandFailed, HandlerConflict, HandlerNotFound
from innkeeper.core.handling import Command as CommandMessage
from innkeeper.core.handling import Event as EventMessage
from innkeeper.core.handling import as_data, made, named_command, named_event
from innkeeper.core.identity import LOCAL_OWNER
from innkeeper.core.times import Instant, isoformat
from innkeeper.core.traces import SpanPlace
from innkeeper.services.handlers import Handler, Handlers
from innkeeper.services.source_code import SourceCode, Where

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Calls a synchronous function where it may block."""

_current: ContextVar[Command | None] = ContextVar("innkeeper_command", default=None)


def current_command() -> Command | None:
    """The command or reaction that this code handles, or `None` outside of a handler."""
    return _current.get()


def current_place() -> SpanPlace | None:
    """The span of the handler or the run that this code is part of, or `None` outside of both."""
    command = _current.get()
    if command is not None:
        return command.place
    context = get_context()
    return None if context is None else context.place


@dataclass(frozen=True, slots=True)
class Found:
    """Whose turn it is: a function of this process, or the source of a handler with this id."""

    python: Handler | None = None
    source_id: str | None = None

    @property
    def is_idempotent(self) -> bool:
        return self.python is not None and self.python.is_idempotent


class Handling:
    """Finds handlers and calls them."""

    def __init__(self, handlers: Handlers, code: SourceCode, in_thread: InThread) -> None:
        self._handlers = handlers
        self._code = code
        self._in_thread = in_thread

    def of_session(self, where: Where, command_type: str) -> Handler | None:
        """The handler in Python that was registered for a session, which is one of the local user."""
        is_local = where.owner == LOCAL_OWNER
        return self._handlers.command_of_session(command_type, where.session_id) if is_local else None

    def check_free(self, where: Where, command_type: str) -> None:
        """Raises: HandlerConflict where a handler in Python would keep another of the session from being called."""
        if self.of_session(where, command_type) is not None:
            raise HandlerConflict(
                f"There is a handler for {command_type} in session {where.session_id!r} already.", param="command_type"
            )

    async def find_command(self, where: Where, command_type: str) -> Found | None:
        """Who handles a command: what was registered in the session comes first."""
        found = self.of_session(where, command_type)
        if found is None:
            sources = await self._code.handlers(where.session_key, "command", command_type)
            if sources:
                return Found(source_id=sources[0].id)
            found = self._handlers.command(command_type)
        return None if found is None else Found(found)

    async def find_events(self, where: Where, event_type: str) -> list[str]:
        """The names of all who want to hear of an event."""
        session_id = where.session_id if where.owner == LOCAL_OWNER else None
        names = [handler.name for handler in self._handlers.events(event_type, session_id)]
        return [*(one.id for one in await self._code.handlers(where.session_key, "event", event_type)), *names]

    async def is_idempotent(self, command: Command) -> bool:
        """Whether its handler may be called again."""
        if command.kind == "reaction":
            known = self._handlers.named(command.handler or "")
            return known is not None and known.is_idempotent
        found = await self.find_command(_place_of(command), command.command_type)
        return found is not None and found.is_idempotent

    async def handle(self, command: Command) -> object:
        """What its handler returns.

        Raises: HandlerNotFound if it was unregistered meanwhile; CommandFailed from the sandbox; whatever it raises.
        """
        _current.set(command)
        if command.kind == "reaction":
            return await self._react(command)
        found = await self.find_command(_place_of(command), command.command_type)
        if found is None:
            raise HandlerNotFound(f"No handler is registered for {command.command_type}.", param="command_type")
        facts = {"command_id": command.id, "session_id": command.session_id, "metadata": command.metadata}
        if found.python is None:
            shown = {"command_type": command.command_type, "parameters": command.parameters, **facts}
            return await self._code.handle(command, "command", command.command_type, found.source_id, shown)
        kind = cast("type[CommandMessage] | None", found.python.message)
        message: CommandMessage = (
            named_command(command.command_type, command.parameters, facts)
            if kind is None
            else made(kind, command.parameters, facts)
        )
        return await self._call(found.python, message)

    async def _react(self, command: Command) -> object:
        event = _shown_event(command.parameters)
        handler = self._handlers.named(command.handler or "")
        if handler is None:
            return await self._code.handle(command, "event", command.command_type, command.handler, event)
        data = cast("Mapping[str, Any]", event["data"])
        facts = {name: event[name] for name in ("event_id", "sequence", "source", "metadata")}
        facts["session_id"] = command.session_id
        kind = cast("type[EventMessage] | None", handler.message)
        message: EventMessage = (
            named_event(command.command_type, data, facts) if kind is None else made(kind, data, facts)
        )
        return await self._call(handler, message)

    async def _call(self, handler: Handler, message: CommandMessage | EventMessage) -> object:
        function = handler.function
        is_async = any(map(inspect.iscoroutinefunction, (inspect.unwrap(function), type(function).__call__)))
        try:
            result = function(message) if is_async else await self._in_thread(lambda: function(message))
            return as_data(await result if inspect.isawaitable(result) else result)
        except (SystemExit, KeyboardInterrupt) as leaving:  # which would end the server
            raise CommandFailed(f"The handler raised {type(leaving).__name__}.") from leaving


def _place_of(command: Command) -> Where:
    return Where(command.owner, command.session_key, command.session_id)


def _shown_event(parameters: Mapping[str, object]) -> dict[str, object]:
    """An event as clients know it, from what its reaction keeps of it."""
    created_at = parameters["created_at"]
    assert isinstance(created_at, int), "a reaction keeps its event's instant"
    return {**parameters, "created_at": isoformat(Instant(created_at))}
