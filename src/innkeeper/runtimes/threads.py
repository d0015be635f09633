"""Threads: where synchronous user code runs, so that the event loop never waits for it.

A call that is cancelled is abandoned: the caller goes on at once, the thread when the user's code lets it.
Each agent has threads of its own, so that one that hangs takes nobody else's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Generic, TypeVar

from innkeeper.core.errors import AgentFailed

T = TypeVar("T")

_AHEAD = 64  # items that a generator may be ahead of its reader


class Threads:
    """At most `limit` threads, started as they are needed; context variables go along."""

    def __init__(self, limit: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(max(1, limit), thread_name_prefix=f"innkeeper-{name}")

    async def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, called in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, copy_context().run, _carried, function)

    async def batches(self, iterator: Iterator[T]) -> AsyncGenerator[list[T], None]:
        """What `iterator` yields, drawn in one thread; items that are ready together come together.

        The iterator is closed in its thread, also when the reader leaves early: then at its next item.
        """
        channel: _Channel[T] = _Channel(asyncio.get_running_loop())
        job = self._pool.submit(copy_context().run, channel.fill, iterator)
        try:
            while batch := await channel.take():
                yield batch
        finally:
            channel.close()
            if job.cancel():
                _close(iterator)


def _carried(function: Callable[[], T]) -> T:
    """`function()`; a `StopIteration`, which asyncio's futures cannot carry, becomes an error that they can."""
    try:
        return function()
    except StopIteration as stop:
        raise AgentFailed("The agent raised StopIteration.") from stop


def _close(iterator: object) -> None:
    close = getattr(iterator, "close", None)
    if callable(close):
        close()


class _Channel(Generic[T]):
    """A bounded queue from one thread to one task."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = threading.Condition()
        self._items: list[T] = []
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False
        self._is_done = False
        self._failure: BaseException | None = None

    def fill(self, iterator: Iterator[T]) -> None:
        """In the thread: draw until the end, or until the reader has left."""
        failure: BaseException | None = None
        try:
            self._draw(iterator)
        except BaseException as raised:  # noqa: BLE001 (it is raised again where the reader is)
            failure = raised
        with self._changed:
            self._is_done, self._failure = True, failure
            self._wake()

    def _draw(self, iterator: Iterator[T]) -> None:
        try:
            for item in iterator:
                if not self._put(item):
                    break
        finally:
            _close(iterator)

    def _put(self, item: T) -> bool:
        with self._changed:
            while len(self._items) >= _AHEAD and not self._is_closed:
                self._changed.wait()
            if not self._is_closed:
                self._items.append(item)
                self._wake()
            return not self._is_closed

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            try:
                self._loop.call_soon_threadsafe(_resolve, waiter)
            except RuntimeError:  # the loop has closed meanwhile: nobody reads any more
                self._is_closed = True

    async def take(self) -> list[T]:
        """On the loop: what is ready, at least one item; nothing means the end."""
        while True:
            with self._changed:
                if self._items or self._is_done:
                    batch, self._items = self._items, []
                    self._changed.notify()
                    break
                waiter = self._waiter = self._loop.create_future()
            await waiter
        if not batch and self._failure is not None:
            raise self._failure
        return batch

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
