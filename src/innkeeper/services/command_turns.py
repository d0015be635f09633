"""Command turns: whose commands begin next where many wait, so that nobody waits for all that another has asked for.

What has to wait is given a turn when it is accepted, and of one priority lower turns are begun first. Each of a
tenant's turns is for a few commands, and a tenant that had nothing waiting begins with the turn that it is now. This is
each process's own count, from one moment at which nothing waited to the next.
"""

from __future__ import annotations

from collections.abc import Iterable

from innkeeper.core.commands import MAX_TURN, Command, Priority
from innkeeper.core.identity import Owner

_IN_A_TURN = 16
_END = (MAX_TURN + 1) * _IN_A_TURN


class CommandTurns:
    """Places in the queue, a row of them for each priority."""

    def __init__(self) -> None:
        self._reached = dict.fromkeys(Priority, 0)
        self._next: dict[tuple[Owner, Priority], int] = {}

    def next(self, owner: Owner, priority: Priority) -> int:
        """The turn of one more that has to wait."""
        place = max(self._reached[priority], self._next.get((owner, priority), 0))
        self._next[owner, priority] = min(place + 1, _END)
        return min(place // _IN_A_TURN, MAX_TURN)

    def taken(self, commands: Iterable[Command]) -> None:
        """These wait no longer."""
        for command in commands:
            self._reached[command.priority] = max(self._reached[command.priority], command.turn * _IN_A_TURN)

    def emptied(self) -> None:
        """Nothing waits any more."""
        self._next.clear()
        self._reached = dict.fromkeys(Priority, 0)
