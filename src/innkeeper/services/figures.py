"""Figures: what the server has measured, and how much a session holds, for those who watch.

Whoever asks while an answer is being made gets the next one, together with all others who wait for it; and making
them takes at most a tenth of the time, so that no number of scrapers slows the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from innkeeper.core.errors import SessionNotFound, StorageUnavailable
from innkeeper.core.identity import Caller
from innkeeper.ports.meters import FigureReader
from innkeeper.ports.readers import CommandReader, CountReader, SessionReader

T = TypeVar("T")

_PATIENCE = 2.0
_REST = 9
_LONGEST_REST = 5.0


class Figures:
    """The use cases of those who watch."""

    def __init__(
        self, *, figures: FigureReader, sessions: SessionReader, commands: CommandReader, counts: CountReader
    ) -> None:
        self._figures = figures
        self._sessions = sessions
        self._commands = commands
        self._counts = counts
        self._text = _Shared(lambda: self._make(figures.text))
        self._summary = _Shared(lambda: self._make(figures.summary))

    async def text(self) -> bytes:
        """Everything measured, in Prometheus's text format."""
        return await self._text.get()

    async def summary(self) -> Mapping[str, object]:
        """The same figures as an object."""
        return await self._summary.get()

    async def _make(self, told: Callable[[Mapping[str, int]], T]) -> T:
        return await asyncio.to_thread(told, await self._queues())

    async def _queues(self) -> Mapping[str, int]:
        """How many wait in each of the store's queues; a store that is ill is no reason to tell nothing at all."""
        try:
            async with asyncio.timeout(_PATIENCE):
                commands = dict(await self._commands.count_open())
                return {"background": await self._counts.queued_runs(), "commands": commands.get("queued", 0)}
        except (StorageUnavailable, TimeoutError):
            return {}

    async def of_session(self, caller: Caller, session_id: str) -> Mapping[str, object]:
        """How much a session of the caller's holds. Raises: SessionNotFound, StorageUnavailable."""
        session = await self._sessions.find(caller, session_id)
        if session is None:
            raise SessionNotFound(f"Session {session_id!r} does not exist.", param="session_id")
        by_status = await self._counts.runs_of(session)
        return {
            "session_id": session.id,
            "messages": session.message_count,
            "runs": {"total": sum(by_status.values()), "by_status": by_status},
            "tokens": {
                "input": session.input_tokens,
                "output": session.output_tokens,
                "total": session.input_tokens + session.output_tokens,
            },
            "events": await self._counts.events_of(session),
        }


class _Shared(Generic[T]):
    """An answer that costs something, made once for all who wait for it, and never from before they asked."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._next: asyncio.Task[T] | None = None
        self._may_begin_at = 0.0
        self._last: asyncio.Task[Any] | None = None

    async def get(self) -> T:
        if self._next is None:
            self._next = asyncio.create_task(self._answer(self._last))
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())  # all may have left
        return await asyncio.shield(self._next)

    async def _answer(self, before: asyncio.Task[Any] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        await asyncio.sleep(self._may_begin_at - time.monotonic())
        self._last, self._next = self._next, None  # who asks from here on might miss what has just happened
        began = time.monotonic()
        try:
            return await self._make()
        finally:
            took = time.monotonic() - began
            self._may_begin_at = time.monotonic() + min(_REST * took, _LONGEST_REST)
