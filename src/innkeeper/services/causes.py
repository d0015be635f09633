"""Causes: how many turns of handlers have come of one command or event.

What handlers publish for each other is bounded in depth; this bounds its breadth, as else a few handlers that publish
what several of them hear would have work for ever, and fill the store. It is each process's own count.
"""

from __future__ import annotations

from collections import OrderedDict

from innkeeper.core.commands import Command
from innkeeper.core.errors import Invalid

MAX_CAUSED = 10_000
_TRACES = 4096


class Causes:
    """Counts by session and trace, of those that were heard of last."""

    def __init__(self) -> None:
        self._caused: OrderedDict[tuple[str, str], int] = OrderedDict()

    def add(self, cause: Command, count: int) -> None:
        """The handler of `cause` publishes what so many are to hear. Raises: Invalid where these are too many."""
        whence = (cause.session_key, cause.trace_id)
        caused = self._caused.pop(whence, 0) + count
        self._caused[whence] = caused
        if len(self._caused) > _TRACES:
            self._caused.popitem(last=False)
        if caused > MAX_CAUSED:
            raise Invalid(
                f"Handlers were called {MAX_CAUSED} times because of one command or event; this one is not published."
            )
