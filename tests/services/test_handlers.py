"""Handlers: each is called by a name that every process of the application finds again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from innkeeper.core.errors import HandlerConflict
from innkeeper.services.handlers import Handlers


def _made(heard: list[str], name: str) -> Callable[[object], None]:
    def hear(event: object) -> None:
        heard.append(name)

    return hear


class _Listener:
    def __call__(self, event: object) -> None: ...


def test_functions_that_are_called_the_same_are_found_apart() -> None:
    heard: list[str] = []
    everywhere, handlers = Handlers(), None
    everywhere.add_event("Told", _made(heard, "everywhere"))
    handlers = Handlers(everywhere)
    for name in ("first", "second"):
        handlers.add_event("Told", _made(heard, name))
    names = [handler.name for handler in handlers.events("Told", "s")]
    assert len(set(names)) == 3
    for name in names:
        found = handlers.named(name)
        assert found is not None
        found.function(None)
    assert heard == ["first", "second", "everywhere"]


def test_no_name_has_an_address_in_it() -> None:
    handlers = Handlers()
    for function in (_Listener(), partial(_Listener()), partial(_made([], "x"))):
        handlers.add_event("Told", function)
    module = __name__
    assert [handler.name for handler in handlers.events("Told", "s")] == [
        f"Told/{module}._Listener",
        f"Told/{module}._Listener#2",
        f"Told/{module}._made.<locals>.hear",
    ]


def test_those_of_the_session_come_first_wherever_they_were_registered() -> None:
    everywhere = Handlers()
    everywhere.add_event("Told", len, session_id="s")
    handlers = Handlers(everywhere)
    handlers.add_event("Told", print)
    assert [handler.function for handler in handlers.events("Told", "s")] == [len, print]
    assert [handler.function for handler in handlers.events("Told", None)] == [print]


def test_a_scope_has_one_handler_for_a_command() -> None:
    handlers = Handlers()
    handlers.add_command("Do", print)
    handlers.add_command("Do", print, session_id="s")
    with pytest.raises(HandlerConflict, match="There is a handler for Do in session 's' already"):
        handlers.add_command("Do", print, session_id="s")
