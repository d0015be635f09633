"""Late lines: what code tracks whose run has ended, waits for people, or was left to another process.

A thread cannot be ended from outside, and a task may be left behind: what they do yet may cost as much as what they did
before. It is booked beside the run, which `services.live` has let go of by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Sequence

from innkeeper.core.changes import RecordCredits
from innkeeper.core.context import RunContext
from innkeeper.core.errors import StorageUnavailable
from innkeeper.core.injections import InjectedMessage
from innkeeper.core.outcomes import Missing
from innkeeper.ports.journal import Journal

_logger = logging.getLogger(__name__)

_FIRST_RETRY, _LAST_RETRY = 0.1, 30.0


class LateLine:
    """Its context's `RunLine` from then on; made on the loop of the run.

    It does not keep the context, which keeps it: most runs are let go of for good.
    """

    def __init__(self, run_id: str, context: RunContext, journal: Journal) -> None:
        self._run_id = run_id
        self._context = weakref.ref(context)
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._booking: asyncio.Task[None] | None = None
        context.line = self
        if context.has_unsettled:
            self.tracked()

    async def receive(self) -> Sequence[InjectedMessage]:
        """Nobody can say anything to it any more."""
        return ()

    async def saved(self) -> None:
        """Return when what was tracked so far is on disk. Nothing that it says is kept."""
        await asyncio.sleep(0)  # what has been tracked on this loop has begun to be booked
        while (booking := self._booking) is not None and not booking.done():
            await asyncio.wait([booking])

    def tracked(self) -> None:
        context = self._context()
        if context is not None:
            with contextlib.suppress(RuntimeError):  # the server has gone, and its loop with it
                self._loop.call_soon_threadsafe(self._begin, context)

    def _begin(self, context: RunContext) -> None:
        if self._booking is None or self._booking.done():
            self._booking = self._loop.create_task(self._book(context))

    async def _book(self, context: RunContext) -> None:
        while records := context.unsettled_records():
            await self._write(RecordCredits(self._run_id, records))

    async def _write(self, change: RecordCredits) -> None:
        pause = _FIRST_RETRY
        while True:
            try:
                (outcome,) = await self._journal.commit((change,))
                if isinstance(outcome, Missing):
                    _logger.warning("credits tracked after run %s are lost: it was deleted", self._run_id)
                return
            except StorageUnavailable as error:
                if pause > _LAST_RETRY:
                    _logger.error("credits tracked after run %s are lost: %s", self._run_id, error)
                    return
                await asyncio.sleep(pause)
                pause *= 2
