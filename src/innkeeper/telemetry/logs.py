"""Logs: what the server logs, written to its store behind its back. Who may read it is `services.logs`' affair.

A handler takes records from any thread into a queue that is bounded in number and in size; a task writes them, many
at a time, and has no timer while there are none. What cannot be written waits in the queue; what does not fit there
any more is dropped, the oldest first, and counted.
Invariant: logging never blocks and never raises, and what a write logs of itself is not written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar

from innkeeper.core.control_changes import KeepLogs
from innkeeper.core.errors import InnkeeperError
from innkeeper.core.logs import LogRecord
from innkeeper.ports.journal import Journal
from innkeeper.telemetry.lines import Line, line_of, record_of

_logger = logging.getLogger(__name__)

MOST_RECORDS = 10_000
MOST_CHARACTERS = 8 * 1024 * 1024
"""Of what waits to be written."""

AT_ONCE = 200
LINGER_SECONDS = 0.5
"""How long the first record of a batch waits for others."""

FLUSH_SECONDS = 2.0
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 10.0
_TOLD_EVERY = 60.0
_ABOUT_A_LINE = 256

_is_own: ContextVar[bool] = ContextVar("innkeeper_is_writing_logs", default=False)


class LogHandler(logging.Handler):
    """Takes what is logged into its queue, and says so once the queue is not empty any more and once it is long."""

    def __init__(
        self,
        level: str,
        *,
        new_id: Callable[[], str],
        now: Callable[[], int],
        shows_errors: bool,
        on_some: Callable[[], None],
        on_many: Callable[[], None],
    ) -> None:
        super().__init__(level)
        self._new_id = new_id
        self._now = now
        self._shows_errors = shows_errors
        self._on_some = on_some
        self._on_many = on_many
        self._lines: deque[Line] = deque()
        self._characters = 0
        self._guard = threading.RLock()
        self.dropped = 0

    def handle(self, record: logging.LogRecord) -> bool:
        """As logging's own, but without its lock around what a record's arguments do to become text."""
        if not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_the_only_one(record):
            _tell_stderr(record)
        if _is_own.get():
            return
        try:
            self._put(line_of(record, self._now(), self._new_id(), shows_errors=self._shows_errors))
        except Exception:  # noqa: BLE001 - nobody who logs may be hurt by it
            self.dropped += 1

    def _put(self, line: Line) -> None:
        with self._guard:
            self._lines.append(line)
            self._characters += len(line.message) + _ABOUT_A_LINE
            while len(self._lines) > MOST_RECORDS or self._characters > MOST_CHARACTERS:
                self._pop()
                self.dropped += 1
            count = len(self._lines)
        if count == 1:
            self._on_some()
        elif count == AT_ONCE:
            self._on_many()

    def _pop(self) -> Line:
        line = self._lines.popleft()
        self._characters -= len(line.message) + _ABOUT_A_LINE
        return line

    def take(self) -> list[Line]:
        """Up to `AT_ONCE` lines, the oldest first; they are not in the queue any more."""
        with self._guard:
            return [self._pop() for _ in range(min(AT_ONCE, len(self._lines)))]

    @property
    def waiting(self) -> int:
        return len(self._lines)

    def _is_the_only_one(self, record: logging.LogRecord) -> bool:
        """Whether the record would be nowhere but in the store, as where nobody has set logging up."""
        handlers = logging.root.handlers
        if handlers[:1] != [self] or not all(isinstance(one, LogHandler) for one in handlers):
            return False
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None and logger is not logging.root:
            if logger.handlers:
                return False
            logger = logger.parent
        return True


def _tell_stderr(record: logging.LogRecord) -> None:
    """What logging itself does where there is no handler at all."""
    last = logging.lastResort
    if last is not None and record.levelno >= last.level:
        last.handle(record)


class LogWriter:
    """Writes what is logged between `open` and `close`; it belongs to the event loop that opened it."""

    def __init__(
        self, journal: Journal, level: str, *, new_id: Callable[[], str], now: Callable[[], int], shows_errors: bool
    ) -> None:
        self._journal = journal
        self._some, self._many, self._closing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.handler = LogHandler(
            level,
            new_id=new_id,
            now=now,
            shows_errors=shows_errors,
            on_some=lambda: self._call(self._some.set),
            on_many=lambda: self._call(self._many.set),
        )
        self._writing: asyncio.Task[None] | None = None
        self._pending: tuple[LogRecord, ...] = ()
        self._told = 0
        self._told_at = float("-inf")

    def open(self) -> None:
        """From now on, what is logged is written."""
        self._loop = asyncio.get_running_loop()
        self._writing = asyncio.create_task(self._write_on())
        logging.root.addHandler(self.handler)

    def _call(self, wake: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: what is logged now is not written any more
            if self._loop is not None:
                self._loop.call_soon_threadsafe(wake)

    def abandon(self) -> None:
        """Take nothing any more; for a writer whose event loop is gone."""
        logging.root.removeHandler(self.handler)

    async def close(self) -> None:
        """Take nothing any more, and write what there is, for `FLUSH_SECONDS` at most."""
        logging.root.removeHandler(self.handler)
        self._closing.set()
        if self._writing is None:
            return
        await asyncio.wait([self._writing], timeout=FLUSH_SECONDS)
        if not self._writing.done():
            self._writing.cancel()
            await asyncio.wait([self._writing])
        if left := len(self._pending) + self.handler.waiting + self.handler.dropped - self._told:
            _logger.warning("%d log records were not written to the store before the server stopped", left)

    async def _write_on(self) -> None:
        _is_own.set(True)
        closing = asyncio.create_task(self._closing.wait())
        try:
            while not self._closing.is_set():
                await self._either(closing, self._some)
                self._some.clear()
                await self._either(closing, self._many, at_most=LINGER_SECONDS)
                self._many.clear()
                await self._write_all(closing)
                self._tell_of_dropped()
                if self.handler.waiting:
                    self._some.set()
            await self._write_all(closing)
        finally:
            closing.cancel()

    @staticmethod
    async def _either(closing: asyncio.Task[bool], event: asyncio.Event, *, at_most: float | None = None) -> None:
        """Wait for the event, for the end, or so long."""
        if event.is_set() or closing.done():
            return
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait([closing, waiting], timeout=at_most, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def _write_all(self, closing: asyncio.Task[bool]) -> None:
        """Write until nothing waits any more; at the end, until a first write fails."""
        pause = 0.0
        while self._pending or self.handler.waiting:
            if not self._pending:
                self._pending = tuple(map(record_of, self.handler.take()))
            failure = await self._write()
            if failure is None:
                if pause:
                    _said(logging.INFO, "log records are written again")
                pause = 0.0
                if self.handler.waiting < AT_ONCE and not closing.done():
                    return  # what came meanwhile waits for company
                continue
            if not pause:
                _said(logging.WARNING, "log records wait for the store: %s", failure)
            if closing.done():
                return
            pause = min(max(pause * 2, _FIRST_PAUSE), _LAST_PAUSE)
            await asyncio.wait([closing], timeout=pause)

    async def _write(self) -> InnkeeperError | None:
        """Write the pending batch; it stays the same until its write is known to have succeeded."""
        try:
            await self._journal.commit((KeepLogs(self._pending),))
        except InnkeeperError as error:
            return error
        except Exception:
            _logger.exception("%d log records cannot be written and are dropped", len(self._pending))
            self.handler.dropped += len(self._pending)
        self._pending = ()
        return None

    def _tell_of_dropped(self) -> None:
        """Once, and again where there are more a minute later."""
        now, dropped = asyncio.get_running_loop().time(), self.handler.dropped - self._told
        if dropped and now >= self._told_at + _TOLD_EVERY:
            self._told, self._told_at = self.handler.dropped, now
            _said(logging.WARNING, "%d log records were dropped: they came faster than they could be written", dropped)


def _said(level: int, text: str, *values: object) -> None:
    """Log what is written to the store as well, although a write says it."""
    token = _is_own.set(False)
    try:
        _logger.log(level, text, *values)
    finally:
        _is_own.reset(token)
