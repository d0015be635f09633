"""The writer of chat logs: derives the rows of runs that have ended, behind them.

What is to be derived is in the store, written with the end of each run; so nothing is lost when this process dies, or
while the store is away. Whoever serves the store may derive what others have left.
Invariant: nothing that a run or a request does waits for this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from innkeeper.core.administration import DeriveChatLogs, Derived
from innkeeper.core.errors import InnkeeperError
from innkeeper.core.runs import Run
from innkeeper.ports.accounts import ChatLogReader
from innkeeper.ports.journal import Journal

_logger = logging.getLogger(__name__)

AT_ONCE = 200
LINGER_SECONDS = 0.2
"""How long it waits for more once a run has ended."""

_EVERY_SECONDS = 5.0
_FIRST_RETRY, _LAST_RETRY = 0.5, 10.0


class ChatLogWriter:
    """Derives, from `open` until `close`."""

    def __init__(self, journal: Journal, chat_logs: ChatLogReader, *, copies: bool = False) -> None:
        """`copies` leaves each row to be copied elsewhere."""
        self._journal = journal
        self._chat_logs = chat_logs
        self._copies = copies
        self._came = asyncio.Event()
        self._is_closing = False
        self._writing: asyncio.Task[None] | None = None
        self.on_rows: Callable[[], None] = lambda: None
        """Hears that rows have been written."""

    def ended(self, run: Run) -> None:
        """A run has ended here."""
        self._came.set()

    def open(self) -> None:
        self._writing = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        pause = _FIRST_RETRY
        while not self._is_closing:
            self._came.clear()
            try:
                await self.write()
                pause = _FIRST_RETRY
            except InnkeeperError as error:
                _logger.warning("chat logs are written later: %s", error)
                await self._wait(pause)
                pause = min(pause * 2, _LAST_RETRY)
            except Exception:
                _logger.exception("chat logs could not be written")
                await self._wait(_LAST_RETRY)
            else:
                await self._wait(_EVERY_SECONDS, for_runs=True)

    async def _wait(self, seconds: float, *, for_runs: bool = False) -> None:
        """Sleep; where that is for runs, until one has ended and others had a moment to end, too."""
        deadline = asyncio.get_running_loop().time() + seconds
        while (left := deadline - asyncio.get_running_loop().time()) > 0 and not self._is_closing:
            try:
                async with asyncio.timeout(left):  # wait_for may swallow a cancellation
                    await self._came.wait()
            except TimeoutError:
                return
            if for_runs:
                await asyncio.sleep(LINGER_SECONDS)
                return
            if not self._is_closing:
                self._came.clear()

    async def write(self) -> int:
        """Derive what there is; returns how many runs that were. Raises: StorageUnavailable."""
        total = 0
        while await self._chat_logs.has_underived():
            (outcome,) = await self._journal.commit((DeriveChatLogs(AT_ONCE, self._copies),))
            assert isinstance(outcome, Derived), "deriving is answered with how many there were"
            total += outcome.count
            if outcome.count < AT_ONCE:  # what is left, if anything, is being derived by others
                break
        if total:
            self.on_rows()
        return total

    async def close(self, patience: float) -> None:
        """Stop, after a last round of about `patience` seconds at most; what is left is derived at the next start."""
        self._is_closing = True
        self._came.set()
        if self._writing is None:
            return
        self._writing.cancel()
        await asyncio.wait([self._writing])
        try:
            await asyncio.wait_for(self.write(), patience)
        except (InnkeeperError, TimeoutError) as error:
            _logger.warning("the last chat logs are written at the next start: %s", str(error) or "no answer in time")
