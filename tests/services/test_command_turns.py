"""Turns of commands, which tenants share the queue by, and the count of what one thing has caused."""

from __future__ import annotations

import pytest

from innkeeper.core.commands import Command, Priority
from innkeeper.core.errors import Invalid
from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant
from innkeeper.services.causes import MAX_CAUSED, Causes
from innkeeper.services.command_turns import CommandTurns

ANN, BOB = Owner("acme", "ann"), Owner("acme", "bob")


def _taken(turns: CommandTurns, turn: int, priority: Priority = Priority.NORMAL) -> None:
    turns.taken([_command(turn=turn, priority=priority)])


def _command(
    session: str = "key", trace: str = "trace", turn: int = 0, priority: Priority = Priority.NORMAL
) -> Command:
    return Command(
        "cmd_x", ANN, "ann", session, "s", "Do", Instant(0), own_trace_id=trace, turn=turn, priority=priority
    )


def test_who_asks_for_much_is_given_later_turns_than_who_asks_for_little() -> None:
    turns = CommandTurns()
    hers = [turns.next(ANN, Priority.NORMAL) for _ in range(100)]
    assert hers == sorted(hers) and hers[-1] == 6
    assert turns.next(BOB, Priority.NORMAL) == 0
    _taken(turns, 5)
    assert turns.next(Owner("other", "ann"), Priority.NORMAL) == 5
    assert turns.next(ANN, Priority.NORMAL) == 6
    assert turns.next(ANN, Priority.HIGH) == 0


def test_once_nothing_waits_everybody_begins_anew() -> None:
    turns = CommandTurns()
    _taken(turns, 7)
    for _ in range(100):
        turns.next(ANN, Priority.NORMAL)
    turns.emptied()
    assert turns.next(ANN, Priority.NORMAL) == 0


def test_turns_end_and_all_that_come_later_share_the_last() -> None:
    turns = CommandTurns()
    _taken(turns, 9_999)
    assert {turns.next(ANN, Priority.NORMAL) for _ in range(100)} == {9_999}


def test_what_one_thing_causes_is_counted_by_session_and_trace() -> None:
    caused = Causes()
    caused.add(_command(), MAX_CAUSED)
    with pytest.raises(Invalid, match="called 10000 times because of one command or event"):
        caused.add(_command(), 1)
    caused.add(_command(session="another"), MAX_CAUSED)
    caused.add(_command(trace="another"), MAX_CAUSED)
