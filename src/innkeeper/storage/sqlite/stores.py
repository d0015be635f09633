"""The SQLite store as a whole: lock, schema, journal and readers."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from innkeeper.core.errors import StoreInUse
from innkeeper.storage.action_readers import StoredActions
from innkeeper.storage.admin_readers import StoredAdmins
from innkeeper.storage.audit_readers import StoredAudit
from innkeeper.storage.chat_log_readers import StoredChatLogs
from innkeeper.storage.command_readers import StoredCommands
from innkeeper.storage.credit_readers import StoredCredits
from innkeeper.storage.engine_readers import StoredEngines
from innkeeper.storage.event_readers import StoredEvents
from innkeeper.storage.figure_readers import StoredFigures
from innkeeper.storage.file_readers import StoredFiles, StoredWorkspaces
from innkeeper.storage.log_readers import StoredLogs
from innkeeper.storage.migrations import HEAD, current_sqlite_revision, migrate_sqlite
from innkeeper.storage.readers import StoredInjections, StoredRuns, StoredWorkers
from innkeeper.storage.session_readers import StoredSessions
from innkeeper.storage.source_readers import StoredSources
from innkeeper.storage.sqlite.checkpoints import Checkpoints
from innkeeper.storage.sqlite.files import StoreLock, connect, prepare_folder, storage_error
from innkeeper.storage.sqlite.journals import SqliteJournal
from innkeeper.storage.sqlite.scrubbing import scrub
from innkeeper.storage.statements import Rows, Statement
from innkeeper.storage.token_readers import StoredTokens
from innkeeper.storage.user_readers import StoredUsers

_BESIDE_PATIENCE, _BESIDE_PAUSE = 5.0, 0.02


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

    def __init__(self, database: Path, *, on_commit: Callable[[float], None] = lambda seconds: None) -> None:
        self.database = database
        self._on_commit = on_commit
        self._lock = StoreLock(database)

    @property
    def label(self) -> str:
        """How the store is called in what people read."""
        return f"SQLite, {self.database}"

    async def open(self, *, serves: bool = True) -> None:
        """Take the lock, bring the schema up to date, open the connections.

        A tool, which does not serve, reads and writes beside whoever does; it takes the lock only where the tables
        are missing or old, and only until they are not.
        Raises: SetupError (StoreInUse among them).
        """
        prepare_folder(self.database)
        writer = self._opened_to_serve() if serves else await self._opened_beside()
        self._fetch = SqliteFetch(self.database)
        self.journal = SqliteJournal(writer, self._on_commit)
        self._checkpoints = (
            Checkpoints(self.database, lambda journal=self.journal: journal.batches)  # type: ignore[misc]
            if serves
            else None
        )
        self.sessions = StoredSessions(self._fetch)
        self.runs = StoredRuns(self._fetch)
        self.actions = StoredActions(self._fetch)
        self.injections = StoredInjections(self._fetch)
        self.events = StoredEvents(self._fetch)
        self.commands = StoredCommands(self._fetch)
        self.sources = StoredSources(self._fetch)
        self.engines = StoredEngines(self._fetch)
        self.tokens = StoredTokens(self._fetch)
        self.credits = StoredCredits(self._fetch)
        self.audit = StoredAudit(self._fetch)
        self.admins = StoredAdmins(self._fetch)
        self.logs = StoredLogs(self._fetch)
        self.chat_logs = StoredChatLogs(self._fetch)
        self.users = StoredUsers(self._fetch)
        self.files = StoredFiles(self._fetch)
        self.workspaces = StoredWorkspaces(self._fetch)
        self.workers = StoredWorkers(self._fetch)
        self.counts = StoredFigures(self._fetch)

    def _opened_to_serve(self) -> sqlite3.Connection:
        self._lock.acquire()
        try:
            return self._migrated()
        except BaseException:
            self._lock.release()
            raise

    async def _opened_beside(self) -> sqlite3.Connection:
        """Another tool, or a server, may be making the tables of a new database just now; so it is tried again."""
        deadline = time.monotonic() + _BESIDE_PATIENCE
        while True:
            connection = connect(self.database)
            if current_sqlite_revision(connection) == HEAD:
                return connection
            connection.close()
            try:
                self._opened_to_serve().close()
            except StoreInUse:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_BESIDE_PAUSE)
            finally:
                self._lock.release()

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

    def scrub(self) -> bool:
        """Remove what was deleted from the files, too; takes its time, and tells whether it could."""
        return scrub(self.database)

    def abandon(self) -> None:
        """Let go of everything; for a store whose event loop is gone, so that nobody can use it.

        Waits for nothing, because the garbage collector may ask for it, in any thread.
        """
        if self._checkpoints is not None:
            self._checkpoints.close(waits=False)
        self.journal.close(waits=False)
        self._fetch.close(waits=False)
        self._lock.release()

    async def close(self) -> None:
        if self._checkpoints is not None:
            await asyncio.to_thread(self._checkpoints.close)
        await asyncio.to_thread(self.journal.close)
        await asyncio.to_thread(self._fetch.close)
        self._lock.release()
