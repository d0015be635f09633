"""The SQLite store as a whole: lock, schema, journal and readers."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from innkeeper.storage.migrations import HEAD, current_sqlite_revision, migrate_sqlite
from innkeeper.storage.readers import StoredInjections, StoredRuns, StoredSessions, StoredWorkers
from innkeeper.storage.sqlite.checkpoints import Checkpoints
from innkeeper.storage.sqlite.files import StoreLock, connect, prepare_folder, storage_error
from innkeeper.storage.sqlite.journals import SqliteJournal
from innkeeper.storage.statements import Rows, Statement


class SqliteFetch:
    """Quick reads on the loop, others in threads, each thread with a connection of its own."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._quick = connect(database, read_only=True)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = [self._quick]
        self._threads = ThreadPoolExecutor(4, "innkeeper-reader")

    async def __call__(self, statement: Statement, values: Mapping[str, Any], *, is_quick: bool = False) -> Rows:
        try:
            if is_quick:
                return self._run(self._quick, statement, values)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._run_in_thread, statement, values)
        except sqlite3.Error as error:
            raise storage_error(error) from error

    def _run_in_thread(self, statement: Statement, values: Mapping[str, Any]) -> Rows:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self._database, read_only=True)
            self._opened.append(connection)
        return self._run(connection, statement, values)

    @staticmethod
    def _run(connection: sqlite3.Connection, statement: Statement, values: Mapping[str, Any]) -> Rows:
        sql = statement.sqlite
        return connection.execute(sql.sql, sql.arguments(values)).fetchall()

    def close(self, *, waits: bool = True) -> None:
        self._threads.shutdown(wait=waits)
        for connection in self._opened:
            connection.close()


class SqliteStore:
    """Opened before serving, closed after; `journal` and the readers are its ports. One process serves it."""

    is_shared = False

    def __init__(self, database: Path) -> None:
        self.database = database
        self._lock = StoreLock(database)

    @property
    def label(self) -> str:
        """How the store is called in what people read."""
        return f"SQLite, {self.database}"

    async def open(self) -> None:
        """Take the lock, bring the schema up to date, open the connections.

        Raises: SetupError (StoreInUse among them).
        """
        prepare_folder(self.database)
        self._lock.acquire()
        try:
            writer = self._migrated()
        except BaseException:
            self._lock.release()
            raise
        self._fetch = SqliteFetch(self.database)
        self.journal = SqliteJournal(writer)
        self._checkpoints = Checkpoints(self.database, lambda journal=self.journal: journal.batches)  # type: ignore[misc]
        self.sessions = StoredSessions(self._fetch)
        self.runs = StoredRuns(self._fetch)
        self.injections = StoredInjections(self._fetch)
        self.workers = StoredWorkers(self._fetch)

    def _migrated(self) -> sqlite3.Connection:
        connection = connect(self.database)
        try:
            migrate_sqlite(connection, self.database)
        except BaseException:
            connection.close()
            raise
        return connection

    async def migrate(self) -> tuple[str | None, str]:
        """Bring the schema up to date without serving, and tell from which revision to which; `open` does so by itself.

        Raises: SetupError (StoreInUse among them).
        """
        prepare_folder(self.database)
        self._lock.acquire()
        try:
            before = connect(self.database)
            try:
                revision = current_sqlite_revision(before)
            finally:
                before.close()
            self._migrated().close()
        finally:
            self._lock.release()
        return revision, HEAD

    def abandon(self) -> None:
        """Let go of everything; for a store whose event loop is gone, so that nobody can use it.

        Waits for nothing, because the garbage collector may ask for it, in any thread.
        """
        self._checkpoints.close(waits=False)
        self.journal.close(waits=False)
        self._fetch.close(waits=False)
        self._lock.release()

    async def close(self) -> None:
        await asyncio.to_thread(self._checkpoints.close)
        await asyncio.to_thread(self.journal.close)
        await asyncio.to_thread(self._fetch.close)
        self._lock.release()
