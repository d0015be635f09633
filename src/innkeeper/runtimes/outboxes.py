"""Outboxes: where any thread leaves events of a run, to be emitted on the loop that reads it, in their order.

Who leaves something never waits: a framework's callback that waited for the loop could be what the loop waits for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from innkeeper.core.events import AgentEvent
from innkeeper.runtimes.relays import Emit


class Outbox:
    """One run's, made on the loop that reads it."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._events: deque[AgentEvent] = deque()
        self._loop = asyncio.get_running_loop()
        self._filled = asyncio.Event()
        self._order = asyncio.Lock()

    def put(self, event: AgentEvent) -> None:
        self._events.append(event)
        with suppress(RuntimeError):  # a thread that nobody waits for any more may outlive the loop
            self._loop.call_soon_threadsafe(self._filled.set)

    async def drained(self) -> None:
        """Return when all that was put in has been emitted."""
        async with self._order:
            while self._events:
                await self._emit(self._events.popleft())

    @asynccontextmanager
    async def emptied(self) -> AsyncGenerator[None]:
        """Emit what is put in, as it comes, and the rest of it at the end."""
        pump = asyncio.create_task(self._pump())
        try:
            yield
        finally:
            pump.cancel()
            await asyncio.wait({pump})
            await self.drained()

    async def _pump(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            await self.drained()
