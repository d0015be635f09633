"""Copies of chat logs: each row is brought to another database, once that answers, and is then done with.

What is still to be copied is in the store. While the other database is away, rows wait there and nothing else does.
Rows that it refuses are passed over, and offered again every now and then, however many they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from innkeeper.core.administration import CopiedChatLogs, Uncopied
from innkeeper.core.chat_logs import ChatLog
from innkeeper.core.errors import InnkeeperError, StorageUnavailable
from innkeeper.ports.accounts import ChatLogReader
from innkeeper.ports.chat_logs import ChatLogSink
from innkeeper.ports.journal import Journal

_logger = logging.getLogger(__name__)

AT_ONCE = 100
_EVERY_SECONDS = 5.0
_FIRST_RETRY, _LAST_RETRY = 0.5, 5.0
_WHOLE_SECONDS, _WHOLE_SHARE = 5.0, 20
"""When rows that were refused are offered again: after so many seconds, or after so many times what that took."""

_WARN_EVERY = 20
"""Failures in a row of which one is told: it may be away for days."""


class ChatLogCopies:
    """Copies, from `open` until `close`."""

    def __init__(
        self, journal: Journal, chat_logs: ChatLogReader, sink: ChatLogSink, *, with_contents: bool = False
    ) -> None:
        self._journal = journal
        self._chat_logs = chat_logs
        self._sink = sink
        self._with_contents = with_contents
        self._came = asyncio.Event()
        self._passed, self._whole_at = "", 0.0
        self._erased: set[str] = set()
        self._copying: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """There are new rows."""
        self._came.set()

    def open(self) -> None:
        self._copying = asyncio.create_task(self._copy_all())

    async def _copy_all(self) -> None:
        pause, failures = _FIRST_RETRY, 0
        while True:
            self._came.clear()
            try:
                await self._copy_new()
            except Exception as error:  # noqa: BLE001 - whatever it is, the rows wait
                self._tell(error, failures)
                await asyncio.sleep(pause)
                pause, failures = min(pause * 2, _LAST_RETRY), failures + 1
                continue
            pause = _FIRST_RETRY
            if failures and not self._passed:
                _logger.info("chat logs have been copied again")
                failures = 0
            try:
                async with asyncio.timeout(_EVERY_SECONDS):
                    await self._came.wait()
            except TimeoutError:
                continue

    @staticmethod
    def _tell(error: Exception, failures: int) -> None:
        if not isinstance(error, InnkeeperError):
            _logger.error("chat logs could not be copied", exc_info=error)
        elif failures % _WARN_EVERY == 0:
            _logger.warning("chat logs are copied later, and wait in the store: %s", error)

    async def _copy_new(self) -> None:
        """Copy what lies behind the rows that were refused before, and now and then those as well.

        Raises: as `copy`.
        """
        time = asyncio.get_running_loop().time
        began = time()
        if began < self._whole_at:
            await self.copy(self._passed)
            return
        try:
            await self.copy()
        finally:
            if self._passed:
                self._whole_at = time() + max(_WHOLE_SECONDS, _WHOLE_SHARE * (time() - began))

    async def copy(self, after: str = "") -> int:
        """Copy what there is behind the run `after`; returns how many rows that were.

        Rows that are refused wait, and those behind them do not wait for them. Raises: StorageUnavailable, in the end
        also for what was refused.
        """
        total, refused, first = 0, 0, ""
        self._passed = after
        await self._drop_erased()
        while rows := await self._chat_logs.uncopied(AT_ONCE, after=after):
            now_refused = await self._sink.write(self._shown(rows))
            copied = tuple(row.run_id for row in rows if row.run_id not in now_refused)
            if copied:
                (outcome,) = await self._journal.commit((CopiedChatLogs(copied),))
                assert isinstance(outcome, Uncopied), "it is told what was erased meanwhile"
                self._erased.update(outcome.run_ids)
                await self._drop_erased()
            if now_refused:
                refused += len(now_refused)
                first = first or "{}: {}".format(*next(iter(now_refused.items())))
                after = self._passed = rows[-1].run_id
            total += len(copied)
        if refused:
            raise StorageUnavailable(f"The logging database refused {refused} rows, such as that of {first}")
        return total

    async def _drop_erased(self) -> None:
        """What was erased between its reading and its copying goes there as well."""
        if self._erased:
            await self._sink.forget_runs(sorted(self._erased))
            self._erased.clear()

    def _shown(self, rows: Sequence[ChatLog]) -> Sequence[ChatLog]:
        return rows if self._with_contents else [replace(row, input=None, output=None) for row in rows]

    async def close(self, patience: float) -> None:
        """Stop, after a last round of about `patience` seconds at most; what is left is copied at the next start."""
        if self._copying is not None:
            self._copying.cancel()
            await asyncio.wait([self._copying])
            try:
                await asyncio.wait_for(self.copy(), patience)
            except (InnkeeperError, TimeoutError) as error:
                _logger.warning(
                    "the last chat logs are copied at the next start: %s", str(error) or "no answer in time"
                )
        await self._sink.close()
