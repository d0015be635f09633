"""Readings: following a run's log, from wherever a reader left off, through the store and on to the live end.

A reading holds a cursor and nothing else: whatever falls out of memory is read again from the store, no more at once
than a reader that takes nothing may have waiting for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from innkeeper.core.changes import Segment
from innkeeper.core.errors import RunNotFound
from innkeeper.ports.readers import RunReader
from innkeeper.services.tails import Tail

_FIRST_SEGMENTS, _MOST_SEGMENTS = 2, 64
_BYTES_AT_ONCE = 64 * 1024


class ReaderGone(Exception):
    """Whoever waited for a run has left."""


class RunReading:
    """One reader of a run's log. It is slow or gone without anybody noticing but its own `next`."""

    def __init__(
        self,
        stored: RunReader,
        run_id: str,
        tail: Tail | None,
        after: int,
        on_close: Callable[[Tail], None],
        *,
        until: int = 0,
    ) -> None:
        """Without a `tail` the log is read as far as `until`, whatever is told in it later."""
        self.after = after
        self._until = until
        self._on_close = on_close
        self._stored = stored
        self._run_id = run_id
        self._tail = tail
        self._at_once = _FIRST_SEGMENTS
        self._is_closed = False
        if tail is not None:
            tail.readers += 1

    async def next(self, patience: float | None = None) -> list[Segment] | None:
        """The segments that follow; empty after `patience` seconds without any, `None` at the end or when closed.

        Raises: StorageUnavailable when the log cannot be written; RunNotFound, RunConflict when it is gone before its
        end could be read.
        """
        while not self._is_closed:
            batch = await self._ready()
            if batch:
                batch = [batch[0].beyond(self.after), *batch[1:]]
                self.after = batch[-1].last_seq
                return batch
            tail = self._tail
            if tail is not None and tail.loss is not None:
                raise tail.loss
            if tail is None or tail.ended.done() or tail.is_cut:
                return None
            if tail.trouble is not None:
                raise tail.trouble
            if not await _changed(tail, patience):
                return []
        return None

    @property
    def is_complete(self) -> bool:
        """Whether it is known, without asking the store, that nothing follows what has been read."""
        tail = self._tail
        return tail is not None and tail.has_ended and tail.loss is None and tail.head == self.after

    async def _ready(self) -> list[Segment]:
        """What is there now: from memory, or from the store when memory no longer reaches back that far."""
        tail = self._tail
        if tail is None:
            return await self._read(self._until) if self.after < self._until else []
        recent = tail.recent(self.after)
        return await self._read(tail.head) if recent is None else recent

    async def _read(self, until: int) -> list[Segment]:
        """Segments of the store, as many as are likely not to be too much, going by the size of the last ones.

        Raises: RunNotFound if they are gone, and whatever has become of the run otherwise.
        """
        stored = await self._stored.segments(self._run_id, self.after, self._at_once)
        found = [segment for segment in stored if segment.first_seq <= until]
        if not found:
            loss = None if self._tail is None else self._tail.loss
            raise loss or RunNotFound(f"What run {self._run_id!r} has said was deleted meanwhile.", param="run_id")
        size = sum(len(segment.data) for segment in found)
        self._at_once = min(_MOST_SEGMENTS, max(1, len(found) * _BYTES_AT_ONCE // max(size, 1)))
        return found

    @property
    def is_sent_away(self) -> bool:
        """Whether this process leaves, so that the reader should go on elsewhere, or later."""
        return self._tail is not None and self._tail.is_leaving

    def close(self) -> None:
        """The reader has gone; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._tail is not None:
            self._tail.readers -= 1
            self._tail.wake()
            self._on_close(self._tail)


async def _changed(tail: Tail, patience: float | None) -> bool:
    if patience is None:
        await tail.changed()
        return True
    waiter = tail.changed()
    timer = asyncio.get_running_loop().call_later(patience, waiter.cancel)
    try:
        await waiter
    except asyncio.CancelledError:
        if waiter.cancelled() and not _is_being_cancelled():
            return False
        raise
    finally:
        timer.cancel()
        tail.forget(waiter)
    return True


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
