"""Retention of chat logs: rows that are older than so many days are dropped, here and where they are copied to.

A few at a time with pauses between, so that nobody who writes has to wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from innkeeper.core.administration import Derived, ForgetChatLogs
from innkeeper.core.times import Instant
from innkeeper.ports.chat_logs import ChatLogSink
from innkeeper.ports.journal import Journal
from innkeeper.services.chores import Chore

_DAY = 24 * 60 * 60 * 1_000_000
_EVERY_SECONDS = 3600.0
_FIRST_SECONDS = 60.0
_AT_ONCE = 500
_PAUSE_SECONDS = 0.02


class ChatLogRetention:
    """Looks every hour for what is to be dropped."""

    def __init__(
        self,
        journal: Journal,
        *,
        now: Callable[[], int],
        days: int,
        sink: ChatLogSink | None = None,
        at_once: int = _AT_ONCE,
    ) -> None:
        self._journal = journal
        self._now = now
        self._days = days
        self._sink = sink
        self._at_once = at_once
        self._chore = Chore("dropping old chat logs", self.forget, first=_FIRST_SECONDS, every=_EVERY_SECONDS)

    def open(self) -> None:
        self._chore.open()

    async def close(self) -> None:
        await self._chore.close()

    async def forget(self) -> int:
        """Drop what is too old; returns how many rows of the store that were. Raises: StorageUnavailable."""
        before = Instant(self._now() - self._days * _DAY)
        total = await self._all_of(lambda: self._forget_some(before))
        if (sink := self._sink) is not None:
            await self._all_of(lambda: sink.forget_before(before, self._at_once))
        return total

    async def _forget_some(self, before: Instant) -> int:
        (outcome,) = await self._journal.commit((ForgetChatLogs(before, self._at_once),))
        assert isinstance(outcome, Derived), "dropping is answered with how many there were"
        return outcome.count

    async def _all_of(self, forget_some: Callable[[], Awaitable[int]]) -> int:
        total = 0
        while count := await forget_some():
            total += count
            if count < self._at_once:
                break
            await asyncio.sleep(_PAUSE_SECONDS)
        return total
