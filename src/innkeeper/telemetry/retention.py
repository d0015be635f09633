"""Retention: log records are forgotten when they are old, or when there are too many.

They are dropped a few at a time with pauses between, so that nobody who writes has to wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from innkeeper.core.control_changes import ForgetLogs, ForgottenLogs
from innkeeper.core.times import Instant
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import LogReader
from innkeeper.services.chores import Chore

MOST_RECORDS = 1_000_000
_DAY = 24 * 60 * 60 * 1_000_000
_EVERY_SECONDS = 3600.0
_FIRST_SECONDS = 60.0
_AT_ONCE = 500
_PAUSE_SECONDS = 0.02


class LogRetention:
    """Looks every hour for what is to be forgotten."""

    def __init__(
        self,
        journal: Journal,
        logs: LogReader,
        *,
        now: Callable[[], int],
        days: int,
        most: int = MOST_RECORDS,
        at_once: int = _AT_ONCE,
    ) -> None:
        self._journal = journal
        self._logs = logs
        self._now = now
        self._days = days
        self._most = most
        self._at_once = at_once
        self._chore = Chore("dropping old log records", self.forget, first=_FIRST_SECONDS, every=_EVERY_SECONDS)

    def open(self) -> None:
        self._chore.open()

    async def close(self) -> None:
        await self._chore.close()

    async def forget(self) -> int:
        """Drop what is too old or too much; returns how many that were.

        Raises: StorageUnavailable.
        """
        before = self._now() - self._days * _DAY
        surplus = await self._logs.older_than_newest(self._most)
        if surplus is not None:
            before = max(before, surplus)
        total = 0
        while True:
            (outcome,) = await self._journal.commit((ForgetLogs(Instant(before), self._at_once),))
            assert isinstance(outcome, ForgottenLogs), "forgetting is answered with how many were forgotten"
            total += outcome.count
            if outcome.count < self._at_once:
                return total
            await asyncio.sleep(_PAUSE_SECONDS)
