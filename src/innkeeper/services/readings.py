"""Readings: following a run's log, from wherever a reader left off, through the store and on to the live end.

A reading holds a cursor and nothing else: whatever falls out of memory is read again from the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from innkeeper.core.changes import Segment
from innkeeper.ports.readers import RunReader
from innkeeper.services.live import LiveRun


class ReaderGone(Exception):
    """Whoever waited for a run has left."""


class RunReading:
    """One reader of a run's log. It is slow or gone without anybody noticing but its own `next`."""

    def __init__(
        self,
        stored: RunReader,
        run_id: str,
        live: LiveRun | None,
        after: int,
        on_close: Callable[[LiveRun], None],
    ) -> None:
        self.after = after
        self._on_close = on_close
        self._stored = stored
        self._run_id = run_id
        self._live = live
        self._is_closed = False
        if live is not None:
            live.readers += 1

    async def next(self, patience: float | None = None) -> list[Segment] | None:
        """The segments that follow; empty after `patience` seconds without any, `None` at the end or when closed.

        Raises: StorageUnavailable when the log cannot be written.
        """
        while not self._is_closed:
            batch = await self._ready()
            if batch:
                batch = _beyond(batch, self.after)
                self.after = batch[-1].last_seq
                return batch
            live = self._live
            if live is None or live.ended.done():
                return None
            if live.trouble is not None:
                raise live.trouble
            if not await _changed(live, patience):
                return []
        return None

    async def _ready(self) -> list[Segment]:
        """What is there now: from memory, or from the store when memory no longer reaches back that far."""
        recent = self._live.recent(self.after) if self._live is not None else None
        return list(await self._stored.segments(self._run_id, self.after)) if recent is None else recent

    def close(self) -> None:
        """The reader has gone; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._live is not None:
            self._live.readers -= 1
            self._live.wake()
            self._on_close(self._live)


async def _changed(live: LiveRun, patience: float | None) -> bool:
    if patience is None:
        await live.changed()
        return True
    waiter = live.changed()
    timer = asyncio.get_running_loop().call_later(patience, waiter.cancel)
    try:
        await waiter
    except asyncio.CancelledError:
        if waiter.cancelled() and not _is_being_cancelled():
            return False
        raise
    finally:
        timer.cancel()
    return True


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _beyond(batch: list[Segment], after: int) -> list[Segment]:
    """The batch without events up to `after`, of which only the first segment can hold some."""
    first = batch[0]
    if first.first_seq > after:
        return batch
    kept = first.payloads()[after - first.first_seq + 1 :]
    return [Segment(after + 1, len(kept), b"\n".join(kept)), *batch[1:]]
