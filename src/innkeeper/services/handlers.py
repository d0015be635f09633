"""Handlers: Python functions for commands and events, of the whole application or of one session.

For a command, a session's handler comes before the application's, and there is one in each scope. For an event, all
of them are called, those of the session first. Handlers that clients registered as source code are in the store.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from innkeeper.core.errors import HandlerConflict, Invalid
from innkeeper.core.handling import Command, Event, type_name
from innkeeper.core.session_events import TYPE

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Handler:
    """A function, and the class that it wants its message in, if it named one.

    One that `is_idempotent` is called again where the process died that executed it.
    """

    name: str
    function: Function
    message: type[Command] | type[Event] | None = None
    is_idempotent: bool = False


class Handlers:
    """Those of one application, then those of `beyond`; a session is named by what its caller calls it."""

    def __init__(self, beyond: Handlers | None = None) -> None:
        self._beyond = beyond
        self._commands: dict[tuple[str | None, str], Handler] = {}
        self._events: dict[tuple[str | None, str], list[Handler]] = {}
        self._by_name: dict[str, Handler] = {}

    def add_command(
        self,
        kind: str | type[Command],
        function: Function,
        *,
        session_id: str | None = None,
        is_idempotent: bool = False,
    ) -> None:
        """Raises: Invalid for a type that cannot be named; HandlerConflict for a second one in that scope."""
        name, scope = checked_type(type_name(kind)), (session_id, type_name(kind))
        if scope in self._commands:
            where = "this application" if session_id is None else f"session {session_id!r}"
            raise HandlerConflict(f"There is a handler for {name} in {where} already.", param="command_type")
        self._commands[scope] = Handler(name, function, None if isinstance(kind, str) else kind, is_idempotent)

    def add_event(
        self,
        kind: str | type[Event],
        function: Function,
        *,
        session_id: str | None = None,
        is_idempotent: bool = False,
    ) -> None:
        """Raises: Invalid for a type that cannot be named."""
        event_type = checked_type(type_name(kind))
        name = self._free_name(f"{event_type}/" + ("" if session_id is None else f"{session_id}/") + _path_of(function))
        handler = Handler(name, function, None if isinstance(kind, str) else kind, is_idempotent)
        self._events.setdefault((session_id, event_type), []).append(handler)
        self._by_name[handler.name] = handler

    def _free_name(self, name: str) -> str:
        """`name`, or with a number, where functions are called the same: what is stored must find its own again."""
        names = itertools.chain((name,), (f"{name}#{number}" for number in itertools.count(2)))
        return next(one for one in names if self.named(one) is None)

    def remove_command(self, kind: str | type[Command], *, session_id: str | None = None) -> bool:
        """Whether there was one."""
        return self._commands.pop((session_id, type_name(kind)), None) is not None

    def remove_event(self, kind: str | type[Event], *, session_id: str | None = None) -> bool:
        """Whether there were any."""
        gone = self._events.pop((session_id, type_name(kind)), [])
        for handler in gone:
            self._by_name.pop(handler.name, None)
        return bool(gone)

    def command_of_session(self, command_type: str, session_id: str) -> Handler | None:
        """The handler for that type in a session of the local user."""
        found = self._commands.get((session_id, command_type))
        if found is None and self._beyond is not None:
            return self._beyond.command_of_session(command_type, session_id)
        return found

    def command(self, command_type: str) -> Handler | None:
        """The application's own handler for that type."""
        found = self._commands.get((None, command_type))
        return self._beyond.command(command_type) if found is None and self._beyond is not None else found

    def events(self, event_type: str, session_id: str | None) -> Sequence[Handler]:
        """All for that type: those of the local user's session, if it is one, then the application's."""
        of_session = () if session_id is None else self._in(session_id, event_type)
        return (*of_session, *self._in(None, event_type))

    def _in(self, scope: str | None, event_type: str) -> Sequence[Handler]:
        own = self._events.get((scope, event_type), ())
        return own if self._beyond is None else (*own, *self._beyond._in(scope, event_type))

    def named(self, name: str) -> Handler | None:
        """An event handler, by its name."""
        found = self._by_name.get(name)
        return self._beyond.named(name) if found is None and self._beyond is not None else found


def _path_of(function: Function) -> str:
    """Where a function is in its program: the same in each process that executes it."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def checked_type(name: str, param: str = "type") -> str:
    """Raises: Invalid."""
    if not TYPE.fullmatch(name):
        raise Invalid(
            f"{param}: must be 1 to 128 letters, digits and _ . : - and begin with a letter or _.", param=param
        )
    return name
