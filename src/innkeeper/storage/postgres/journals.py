"""The journal on PostgreSQL: a transaction a call, many at a time, each session's in order.

When a connection is lost during COMMIT, the server is asked afterwards what became of that transaction, so
that a change is neither lost nor made twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from innkeeper.core.changes import AppendEvents, Change, Fence, Outcome
from innkeeper.core.errors import InnkeeperError, StorageUnavailable
from innkeeper.storage.postgres.connections import PATIENCE, Connection, arguments, patiently, was_answered
from innkeeper.storage.postgres.lanes import Lanes, Passed
from innkeeper.storage.programs import call

Outcomes = tuple[Outcome, ...]


class _Entry:
    """One call; `transaction` is the id of a COMMIT that was sent and not answered."""

    __slots__ = ("changes", "deadline", "fence", "future", "outcomes", "transaction")

    def __init__(
        self, changes: Sequence[Change], fence: Fence | None, future: asyncio.Future[Outcomes], deadline: float
    ) -> None:
        self.changes = changes
        self.fence = fence
        self.future = future
        self.deadline = deadline
        self.outcomes: Outcomes = ()
        self.transaction: str | None = None


class PostgresJournal:
    """Implements `ports.journal.Journal`; bound to the event loop that makes the calls."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
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
        try:
            if before:
                await asyncio.wait(before)
            if not entry.future.cancelled():
                outcomes = await patiently(lambda: self._attempt(entry), entry.deadline)
                self._lanes.learn(outcomes)
                if not entry.future.done():
                    entry.future.set_result(outcomes)
        except InnkeeperError as error:
            if not entry.future.done():
                entry.future.set_exception(error)
        finally:
            passed.set_result(None)
            entry.future.cancel()  # no effect on one that has its answer

    async def _attempt(self, entry: _Entry) -> Outcomes:
        async with self._pool.acquire() as connection:
            try:
                if entry.transaction is not None and await _was_committed(connection, entry.transaction):
                    return entry.outcomes
                return await self._transact(connection, entry)
            except BaseException as error:
                if isinstance(error, InnkeeperError) or was_answered(error):
                    await connection.execute("ROLLBACK")
                else:
                    connection.terminate()
                raise

    @staticmethod
    async def _transact(connection: Connection, entry: _Entry) -> Outcomes:
        entry.transaction = None
        await connection.execute("BEGIN")
        outcomes = await _drive(connection, entry)
        if not _is_repeatable(entry):
            entry.transaction = await connection.fetchval("SELECT pg_current_xact_id_if_assigned()::text")
        entry.outcomes = outcomes
        try:
            await connection.execute("COMMIT")
        except asyncpg.PostgresError as error:
            if was_answered(error):
                entry.transaction = None
            raise
        return outcomes

    async def close(self) -> None:
        """Refuse further calls, and wait for those under way, which end in time by themselves."""
        self._is_closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)


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


def _is_repeatable(entry: _Entry) -> bool:
    """Whether applying the call again is harmless, so that nobody need ask what became of it."""
    return all(isinstance(change, AppendEvents) for change in entry.changes)


async def _was_committed(connection: Connection, transaction: str) -> bool:
    status = await connection.fetchval("SELECT pg_xact_status($1::text::xid8)", transaction)
    if status == "in progress":
        raise TimeoutError
    return bool(status == "committed")
