"""The journal on SQLite: a group commit without a timer.

What has queued while the last commit ran becomes the next transaction. Statements run on the event loop,
because each takes microseconds; COMMIT, which waits for the disk, runs in the writer thread, and so does a
whole batch when it is large.
Invariant: between BEGIN and the end of COMMIT nothing else touches the writing connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from innkeeper.core.administration import DeriveChatLogs, ForgetChatLogs, ForgetUser
from innkeeper.core.changes import AcceptRun, AppendEvents, AppendMessages, Change, DeleteSession, EndRun, Fence
from innkeeper.core.control_changes import AcceptCommands, KeepLogs
from innkeeper.core.errors import InnkeeperError, StorageUnavailable
from innkeeper.core.file_changes import ChangeWorkspace
from innkeeper.core.messages import Message
from innkeeper.core.outcomes import Outcome
from innkeeper.storage.programs import call
from innkeeper.storage.sqlite.files import is_locked, storage_error

MAX_BATCH = 64
LARGE_BATCH = 128 * 1024
_ROW = 1024
"""What a row costs beside its text, as so many bytes."""

LOCK_PATIENCE = 5.0
_RETRY_EVERY = 0.01

Outcomes = tuple[Outcome, ...]


class _Entry:
    __slots__ = ("began", "changes", "failure", "fence", "future", "is_alone", "outcomes", "wrote")

    def __init__(self, changes: Sequence[Change], fence: Fence | None, future: asyncio.Future[Outcomes]) -> None:
        self.changes = changes
        self.fence = fence
        self.future = future
        self.outcomes: Outcomes = ()
        self.failure: BaseException | None = None
        self.wrote = False
        self.is_alone = False
        self.began = time.perf_counter()


class SqliteJournal:
    """Implements `ports.journal.Journal`; bound to the event loop that makes the calls."""

    def __init__(
        self, connection: sqlite3.Connection, on_commit: Callable[[float], None] = lambda seconds: None
    ) -> None:
        """`on_commit` is told how long each call that was not refused took, in seconds."""
        self._connection = connection
        self._on_commit = on_commit
        self._cursor = connection.cursor()
        self._queue: deque[_Entry] = deque()
        self._thread = ThreadPoolExecutor(1, "innkeeper-writer")
        self._is_busy = False
        self._is_closed = False
        self.batches = 0
        self._idle = threading.Event()
        self._idle.set()

    def commit(self, changes: Sequence[Change], fence: Fence | None = None) -> asyncio.Future[Outcomes]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcomes] = loop.create_future()
        if self._is_closed:
            future.set_exception(StorageUnavailable("The store is closed."))
            return future
        self._queue.append(_Entry(changes, fence, future))
        if not self._is_busy:
            self._is_busy = True
            self._idle.clear()
            loop.call_soon(self._turn, loop)
        return future

    def _turn(self, loop: asyncio.AbstractEventLoop, waited: float = 0.0) -> None:
        """Carry out what has queued; comes back through `_finish` as long as there is more."""
        batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
        batch = [entry for entry in batch if not entry.future.cancelled()]
        if not batch:
            self._is_busy = bool(self._queue)
            if self._is_busy:
                loop.call_soon(self._turn, loop)
            else:
                self._idle.set()
            return
        if _weight(batch) > LARGE_BATCH:
            self._submit(loop, batch, lambda: self._transact(batch), waited)
            return
        try:
            self._apply(batch)
        except BaseException as error:  # noqa: BLE001 - whatever happened, somebody waits for the answer
            self._after(loop, batch, error, waited)
        else:
            self._submit(loop, batch, lambda: self._connection.execute("COMMIT"), waited)

    def _submit(
        self, loop: asyncio.AbstractEventLoop, batch: list[_Entry], work: Callable[[], Any], waited: float
    ) -> None:
        def report(done: Any) -> None:
            try:
                loop.call_soon_threadsafe(self._after, loop, batch, done.exception(), waited)
            except RuntimeError:  # the loop was closed under us: nobody waits any more
                self._is_busy = False
                self._idle.set()

        try:
            self._thread.submit(work).add_done_callback(report)
        except RuntimeError:  # the store was closed without waiting for us
            for entry in batch:
                entry.failure = StorageUnavailable("The store is closed.")
            self._answer(batch)
            self._turn(loop)

    def _transact(self, batch: list[_Entry]) -> None:
        self._apply(batch)
        self._connection.execute("COMMIT")

    def _apply(self, batch: list[_Entry]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self.batches += 1
        for entry in batch:
            self._apply_one(entry)

    def _apply_one(self, entry: _Entry) -> None:
        """Run an entry's programs. A rule that refuses fails this entry alone if it has written nothing."""
        entry.wrote, entry.failure = False, None
        try:
            entry.outcomes = self._drive(entry)
        except InnkeeperError as refusal:
            if entry.wrote:
                raise
            entry.failure = refusal

    def _drive(self, entry: _Entry) -> Outcomes:
        cursor = self._cursor
        running = call(entry.changes, entry.fence)
        try:
            query = next(running)
            while True:
                statement, values = query
                sql = statement.sqlite
                entry.wrote |= statement.writes
                cursor.execute(sql.sql, sql.arguments(values))
                query = running.send(cursor.fetchall() if statement.returns else ())
        except StopIteration as stop:
            outcomes: Outcomes = stop.value
            return outcomes

    def _after(
        self, loop: asyncio.AbstractEventLoop, batch: list[_Entry], error: BaseException | None, waited: float
    ) -> None:
        """A batch is through, or has failed: answer, retry one by one, or wait for a lock."""
        if error is None:
            self._answer(batch)
            self._turn(loop)
            return
        with contextlib.suppress(sqlite3.Error):  # else nobody would be answered; the next BEGIN tells
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        if is_locked(error) and waited < LOCK_PATIENCE:
            self._queue.extendleft(reversed(batch))
            loop.call_later(_RETRY_EVERY, self._turn, loop, waited + _RETRY_EVERY)
        elif is_locked(error) or len(batch) == 1 or all(entry.is_alone for entry in batch):
            for entry in batch:
                entry.failure = error if isinstance(error, InnkeeperError) else storage_error(error)
            self._answer(batch)
            self._turn(loop)
        else:
            self._submit(loop, batch, lambda: self._one_by_one(batch), waited)

    def _one_by_one(self, batch: list[_Entry]) -> None:
        """Apply each entry in a savepoint of its own, so that one that fails does not fail its neighbours."""
        for entry in batch:
            entry.is_alone, entry.failure = True, None
        while not self._tried_each([entry for entry in batch if entry.failure is None]):
            pass
        self._connection.execute("COMMIT")

    def _tried_each(self, entries: list[_Entry]) -> bool:
        """False if an entry failed in a way that undid those before it, as on a full disk."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        for entry in entries:
            connection.execute("SAVEPOINT entry")
            try:
                self._apply_one(entry)
            except Exception as error:  # noqa: BLE001 - becomes the entry's answer
                entry.failure = error if isinstance(error, InnkeeperError) else storage_error(error)
                if not connection.in_transaction:
                    return False
                connection.execute("ROLLBACK TO entry")
            connection.execute("RELEASE entry")
        return True

    def _answer(self, batch: list[_Entry]) -> None:
        now = time.perf_counter()
        for entry in batch:
            if entry.future.done():
                continue
            if entry.failure is not None:
                entry.future.set_exception(entry.failure)
            else:
                entry.future.set_result(entry.outcomes)
                self._on_commit(now - entry.began)

    def close(self, *, waits: bool = True) -> None:
        """Refuse further calls, and wait for the commit that is under way."""
        self._is_closed = True
        if waits:
            self._idle.wait(2 * LOCK_PATIENCE)
        self._thread.shutdown(wait=waits)
        self._connection.close()


def _weight(batch: Sequence[_Entry]) -> int:
    """Roughly the bytes that a batch writes."""
    total = 0
    for entry in batch:
        for change in entry.changes:
            weigh = _WEIGHTS.get(type(change))
            if weigh is not None:
                total += weigh(change)
    return total


def _segment_weight(change: AppendEvents | EndRun) -> int:
    return len(change.segment.data)


def _accept_weight(change: AcceptRun) -> int:
    transcript = change.transcript
    return _messages_weight(transcript.new) + _messages_weight(transcript.before)


def _messages_weight(messages: Sequence[Message]) -> int:
    total = 0
    for message in messages:
        total += len(message.content or "")
    return total


def _limit_weight(change: DeriveChatLogs | ForgetChatLogs) -> int:
    return change.limit * _ROW


def _unknown_weight(change: DeleteSession | ForgetUser) -> int:
    return LARGE_BATCH + 1  # nobody knows how long its log is


_WEIGHTS: dict[type[Change], Callable[[Any], int]] = {
    AppendEvents: _segment_weight,
    EndRun: _segment_weight,
    AcceptRun: _accept_weight,
    KeepLogs: lambda change: sum(len(record.message) + _ROW for record in change.records),
    AppendMessages: lambda change: _messages_weight(change.messages),
    AcceptCommands: lambda change: len(change.commands) * 2 * _ROW,
    ChangeWorkspace: lambda change: (len(change.writes) + len(change.removals)) * 4 * _ROW,
    DeriveChatLogs: _limit_weight,
    ForgetChatLogs: _limit_weight,
    DeleteSession: _unknown_weight,
    ForgetUser: _unknown_weight,
}
"""Roughly the bytes that a change writes; others write little."""
