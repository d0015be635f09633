"""Channels: a bounded queue from a thread, or from an event loop in another thread, to one task.

Items that are ready together are taken together, so that both sides meet once a batch and not once an item. The
writer waits when it is too far ahead, and learns at its next item that the reader has left.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Generic, TypeVar

T = TypeVar("T")

_AHEAD = 64  # items that a writer may be ahead of its reader
_LONG = 16 * 1024  # characters of text that count as one more


class Channel(Generic[T]):
    """Made by the reader, on its loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._items: list[T] = []
        self._weight = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._idle: list[asyncio.Future[None]] = []
        self._is_closed = False
        self._is_done = False
        self._failure: BaseException | None = None

    # the writer's

    def put(self, item: T) -> bool:
        """In a thread: hand over `item`, once there is room; false if the reader has left."""
        with self._changed:
            while self._is_full:
                self._changed.wait()
            return self._append(item)

    async def send(self, item: T) -> bool:
        """As `put`, on the writer's event loop."""
        while True:
            with self._changed:
                if not self._is_full:
                    return self._append(item)
                room = self._writer = asyncio.get_running_loop().create_future()
            await room

    @property
    def _is_full(self) -> bool:
        return self._weight >= _AHEAD and not self._is_closed

    def _append(self, item: T) -> bool:
        if not self._is_closed:
            self._items.append(item)
            self._weight += _weight(item)
            self._wake_reader()
        return not self._is_closed

    def end(self, failure: BaseException | None = None) -> None:
        """Nothing comes any more; `failure` is raised where the reader is."""
        with self._changed:
            if not self._is_done:
                self._is_done, self._failure = True, failure
                self._wake_reader()

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if not _wake(reader):  # its loop has closed meanwhile: nobody reads any more
            self._is_closed = True

    # the reader's

    async def take(self) -> list[T]:
        """What is ready, at least one item; nothing means the end.

        Raises: what the writer failed with, after its last item.
        """
        while True:
            with self._changed:
                if self._items or self._is_done:
                    batch, self._items, self._weight = self._items, [], 0
                    self._make_room()
                    break
                reader = self._reader = self._loop.create_future()
            self._tell_idle()
            await reader
        if not batch:
            self._tell_idle()
            if self._failure is not None:
                raise self._failure
        return batch

    async def caught_up(self) -> None:
        """On the reader's loop, while it reads: return once it has come back for more than there is, or has left."""
        with self._changed:
            if self._is_closed or self._is_done or (self._reader is not None and not self._items):
                return
            idle: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(idle)
        await idle

    def close(self) -> None:
        """The reader has left: what is still there, and whatever comes, is dropped."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._make_room()
        self._tell_idle()

    async def ended(self) -> None:
        """Return once the writer has ended, dropping what it says until then."""
        self.close()
        while True:
            with self._changed:
                if self._is_done:
                    return
                reader = self._reader = self._loop.create_future()
            await reader

    def _make_room(self) -> None:
        self._changed.notify()
        writer, self._writer = self._writer, None
        _wake(writer)

    def _tell_idle(self) -> None:
        idle, self._idle = self._idle, []
        for one in idle:
            _resolve(one)


def _weight(item: object) -> int:
    text = item if type(item) is str else getattr(item, "content", None)
    return 1 + len(text) // _LONG if isinstance(text, str | bytes) else 1


def _wake(waiter: asyncio.Future[None] | None) -> bool:
    """Wake the task that waits on `waiter`, if any, on its own loop; false if that loop has closed."""
    if waiter is not None:
        try:
            waiter.get_loop().call_soon_threadsafe(_resolve, waiter)
        except RuntimeError:
            return False
    return True


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
