"""The journal on PostgreSQL: a transaction a call, many at a time, each session's in order.

When a connection is lost during COMMIT, a proof is looked for afterwards, once that transaction is over, so
that a change is neither lost nor made twice. The transaction's own status would not do: a server that crashes
gives the ids of transactions that it has lost to others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from innkeeper.core.changes import Change, Fence
from innkeeper.core.errors import InnkeeperError, StorageUnavailable
from innkeeper.core.outcomes import Missing, Outcome
from innkeeper.storage.postgres.connections import PATIENCE, Connection, arguments, drop, patiently, was_answered
from innkeeper.storage.postgres.lanes import Lanes, Passed
from innkeeper.storage.programs import call
from innkeeper.storage.programs.proofs import proof
from innkeeper.storage.statements import Query

Outcomes = tuple[Outcome, ...]


class _Entry:
    """One call; `transaction` is the id of one whose COMMIT was sent and not answered, `proof` that it was made."""

    __slots__ = ("changes", "deadline", "fence", "future", "outcomes", "proof", "transaction")

    def __init__(
        self, changes: Sequence[Change], fence: Fence | None, future: asyncio.Future[Outcomes], deadline: float
    ) -> None:
        self.changes = changes
        self.fence = fence
        self.future = future
        self.deadline = deadline
        self.outcomes: Outcomes = ()
        self.proof: Query | None = None
        self.transaction: str | None = None


class PostgresJournal:
    """Implements `ports.journal.Journal`; bound to the event loop that makes the calls."""

    def __init__(self, pool: asyncpg.Pool[Any], on_commit: Callable[[float], None] = lambda seconds: None) -> None:
        """`on_commit` is told how long each call that was not refused took, in seconds."""
        self._pool = pool
        self._on_commit = on_commit
        self._lanes = Lanes()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def commit(self, changes: Sequence[Change], fence: Fence | None = None) -> asyncio.Future[Outcomes]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcomes] = loop.create_future()
        if self._is_closed:
            future.set_exception(StorageUnavailable("The store is closed."))
            return future
        entry = _Entry(changes, fence, future, loop.time() + PATIENCE)
        task = loop.create_task(self._carry_out(entry, *self._lanes.enter(changes, fence)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return future

    async def _carry_out(self, entry: _Entry, before: set[Passed], passed: Passed) -> None:
        began = time.perf_counter()
        try:
            if before:
                await asyncio.wait(before)
            if not entry.future.cancelled():
                outcomes = await patiently(lambda: self._attempt(entry), entry.deadline)
                self._lanes.learn(outcomes)
                if not entry.future.done():
                    entry.future.set_result(outcomes)
                    self._on_commit(time.perf_counter() - began)
        except InnkeeperError as error:
            if not entry.future.done():
                entry.future.set_exception(error)
        finally:
            passed.set_result(None)
            entry.future.cancel()  # no effect on one that has its answer

    async def _attempt(self, entry: _Entry) -> Outcomes:
        async with self._pool.acquire() as connection:
            try:
                if entry.transaction is not None and await _was_committed(connection, entry):
                    return entry.outcomes
                return await self._transact(connection, entry)
            except BaseException as error:
                await _roll_back(connection, error)
                raise

    @staticmethod
    async def _transact(connection: Connection, entry: _Entry) -> Outcomes:
        lost = entry.outcomes if entry.proof is None else ()
        entry.transaction = None
        await connection.execute("BEGIN")
        outcomes = await _drive(connection, entry)
        if lost:  # what is missing now, was there for the call whose answer was lost
            outcomes = tuple(old if isinstance(new, Missing) else new for old, new in zip(lost, outcomes, strict=True))
        entry.proof = proof(entry.changes, outcomes)
        if entry.proof is not None:
            entry.transaction = await connection.fetchval("SELECT pg_current_xact_id_if_assigned()::text")
        entry.outcomes = outcomes
        try:
            await connection.execute("COMMIT")
        except asyncpg.PostgresError as error:
            if was_answered(error):
                entry.transaction, entry.outcomes = None, ()
            raise
        return outcomes

    async def close(self) -> None:
        """Refuse further calls, and wait for those under way, which end in time by themselves."""
        self._is_closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _roll_back(connection: Connection, error: BaseException) -> None:
    """End the transaction, and the connection with it where it cannot be trusted any more."""
    is_sound = False
    try:
        if isinstance(error, InnkeeperError) or was_answered(error):
            await connection.execute("ROLLBACK")
            is_sound = True
    finally:
        if not is_sound:
            drop(connection)


async def _drive(connection: Connection, entry: _Entry) -> Outcomes:
    running = call(entry.changes, entry.fence)
    try:
        statement, values = next(running)
        while True:
            sql = statement.postgres
            statement, values = running.send(await connection.fetch(sql.sql, *arguments(sql, values)))
    except StopIteration as stop:
        outcomes: Outcomes = stop.value
        return outcomes


async def _was_committed(connection: Connection, entry: _Entry) -> bool:
    """Raises: TimeoutError while that cannot be said."""
    assert entry.proof is not None, "a transaction is remembered for what has a proof"
    try:
        status = await connection.fetchval("SELECT pg_xact_status($1::text::xid8)", entry.transaction)
    except asyncpg.InvalidParameterValueError:  # the server crashed and knows nothing of it
        return False
    if status == "in progress":
        raise TimeoutError
    sql = entry.proof.statement.postgres
    return bool(await connection.fetch(sql.sql, *arguments(sql, entry.proof.values)))
