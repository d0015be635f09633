"""Relays: a framework's run in a task of its own, its events handed over in order.

Frameworks hold cancel scopes and context variables open while they run; in a task of their own these cannot
leak into whoever reads the events, and an abandoned reader still ends the run cleanly.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from innkeeper.core.context import RunContext, set_context, set_wait
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import AgentEvent
from innkeeper.runtimes.threads import Threads, waiting


class Emit(Protocol):
    """Hands an event to whoever reads the run; `caught_up` returns when that one has taken all of them."""

    async def __call__(self, event: AgentEvent) -> None: ...

    async def caught_up(self) -> None: ...


# How far a run may be ahead of its reader before it waits.
_AHEAD = 256


class _Channel:
    """A bounded queue with an end."""

    def __init__(self) -> None:
        self._events: deque[AgentEvent] = deque()
        self._has_ended = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._is_left = False

    async def __call__(self, event: AgentEvent) -> None:
        while len(self._events) >= _AHEAD:
            self._writable.clear()
            await self._writable.wait()
        self._events.append(event)
        if not self._is_left:
            self._caught_up.clear()
        self._readable.set()

    async def caught_up(self) -> None:
        """Return once the reader has come back for more than there is, or has left."""
        await self._caught_up.wait()

    def leave(self) -> None:
        """The reader has left: whoever waits for it goes on."""
        self._is_left = True
        self._caught_up.set()

    def end(self, _: object) -> None:
        self._has_ended = True
        self._readable.set()

    async def __aiter__(self) -> AsyncIterator[AgentEvent]:
        while True:
            while self._events:
                event = self._events.popleft()
                self._writable.set()
                yield event
            self._caught_up.set()
            if self._has_ended:
                return
            self._readable.clear()
            await self._readable.wait()


def inside(context: RunContext) -> contextvars.Context:
    """A copy of the current context in which `get_context()` finds `context`."""
    copied = contextvars.copy_context()
    copied.run(set_context, context)
    return copied


async def relayed(
    produce: Callable[[Emit], Awaitable[None]], context: RunContext, threads: Threads | None = None
) -> AsyncIterator[AgentEvent]:
    """The events that `produce` emits; it runs inside `context`, and is cancelled when its reader leaves.

    What it has asyncio call in a thread is called in one of `threads`.
    """
    channel = _Channel()

    async def produced() -> None:
        if threads is not None:
            threads.lend()
        set_wait(waiting(channel.caught_up))  # the framework calls sync tools in threads
        try:
            await produce(channel)
        except (SystemExit, KeyboardInterrupt) as error:
            raise AgentFailed("The agent tried to end the process.") from error

    task = asyncio.create_task(produced(), context=inside(context))
    task.add_done_callback(channel.end)
    try:
        async for event in channel:
            yield event
        if task.cancelled():
            raise AgentFailed("The agent cancelled itself.")
        task.result()
    finally:
        task.cancel()
        channel.leave()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen, so that a failure on the way out is not reported as lost
