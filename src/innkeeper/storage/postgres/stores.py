"""The PostgreSQL store as a whole: schema, connections, journal and readers.

Unlike SQLite's, its schema is never changed at start: `innkeeper migrate` does that when its operator says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import asyncpg

from innkeeper.core.errors import SetupError
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
from innkeeper.storage.migrations import HEAD, upgrade
from innkeeper.storage.postgres.connections import PATIENCE, Address, Connection, arguments, drop, patiently
from innkeeper.storage.postgres.journals import PostgresJournal
from innkeeper.storage.readers import StoredInjections, StoredRuns, StoredWorkers
from innkeeper.storage.session_readers import StoredSessions
from innkeeper.storage.source_readers import StoredSources
from innkeeper.storage.statements import Rows, Statement
from innkeeper.storage.token_readers import StoredTokens
from innkeeper.storage.user_readers import StoredUsers

_logger = logging.getLogger(__name__)

_OLDEST_SERVER = 13
_RISKY = {
    "fsync": "a power failure may destroy the database",
    "synchronous_commit": "a crash of the database loses messages that were acknowledged",
}


class PostgresFetch:
    """Reads, each on a connection of the pool."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def __call__(self, statement: Statement, values: Mapping[str, Any], *, is_quick: bool = False) -> Rows:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        return await patiently(lambda: self._attempt(statement, values), deadline)

    async def _attempt(self, statement: Statement, values: Mapping[str, Any]) -> Rows:
        sql = statement.postgres
        async with self._pool.acquire() as connection:
            try:
                rows: Rows = await connection.fetch(sql.sql, *arguments(sql, values))
            except BaseException as error:
                if not isinstance(error, asyncpg.PostgresError):
                    drop(connection)
                raise
            return rows


class PostgresStore:
    """Opened before serving, closed after; `journal` and the readers are its ports. Any number may serve it."""

    is_shared = True

    def __init__(
        self, url: str, *, connections: int = 10, on_commit: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self._address = Address(url)
        self._on_commit = on_commit
        self._size = connections

    @property
    def label(self) -> str:
        """How the store is called in what people read; without the password."""
        return str(self._address)

    async def open(self, *, serves: bool = True) -> None:
        """Look whether the tables are as they should be, and open the connections, on the running loop.

        Who serves is warned where the database may lose what it has acknowledged; a tool is not.
        Raises: SetupError.
        """
        connection = await self._address.connect()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._check(connection, warns=serves)
            self._pool = await asyncpg.create_pool(
                **self._address.options, min_size=1, max_size=self._size, reset=_keep_as_it_is
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise SetupError(f"{self.label} stopped answering: {error}.") from error
        finally:
            connection.terminate()
        self.journal = PostgresJournal(self._pool, self._on_commit)
        fetch = PostgresFetch(self._pool)
        self.sessions = StoredSessions(fetch)
        self.runs = StoredRuns(fetch)
        self.actions = StoredActions(fetch)
        self.injections = StoredInjections(fetch)
        self.events = StoredEvents(fetch)
        self.commands = StoredCommands(fetch)
        self.sources = StoredSources(fetch)
        self.engines = StoredEngines(fetch)
        self.tokens = StoredTokens(fetch)
        self.credits = StoredCredits(fetch)
        self.audit = StoredAudit(fetch)
        self.admins = StoredAdmins(fetch)
        self.logs = StoredLogs(fetch)
        self.chat_logs = StoredChatLogs(fetch)
        self.users = StoredUsers(fetch)
        self.files = StoredFiles(fetch)
        self.workspaces = StoredWorkspaces(fetch)
        self.workers = StoredWorkers(fetch)
        self.counts = StoredFigures(fetch)

    async def _check(self, connection: Connection, *, warns: bool) -> None:
        version = connection.get_server_version()
        if version.major < _OLDEST_SERVER:
            raise SetupError(f"{self.label} is version {version.major}; at least {_OLDEST_SERVER} is needed.")
        revision = await _revision(connection)
        if revision is not None and revision > HEAD:
            raise SetupError(f"The tables of {self.label} are newer than this program. Upgrade innkeeper.")
        if revision != HEAD:
            state = "has no tables yet" if revision is None else f"has tables of revision {revision}, not {HEAD}"
            raise SetupError(f"{self.label} {state}. Run: innkeeper migrate")
        for setting, consequence in _RISKY.items() if warns else ():
            if await connection.fetchval(f"SHOW {setting}") == "off":
                _logger.warning("%s runs with %s=off: %s", self.label, setting, consequence)

    async def migrate(self) -> tuple[str | None, str]:
        """Bring the tables up to date, and tell from which revision to which; what `innkeeper migrate` does.

        Raises: SetupError.
        """
        connection = await self._address.connect()
        try:
            revision = await _revision(connection)
        finally:
            connection.terminate()
        if revision is not None and revision > HEAD:
            raise SetupError(f"The tables of {self.label} are newer than this program. Upgrade innkeeper.")
        try:
            await asyncio.to_thread(upgrade, self._address.url)
        except (OSError, asyncpg.PostgresError) as error:
            raise SetupError(f"{self.label} cannot be migrated: {error}.") from error
        return revision, HEAD

    def scrub(self) -> bool:
        """What was deleted cannot be read any more; its place in the files is the database's affair."""
        return True

    def abandon(self) -> None:
        """Nothing is held that would outlive the process; for a store whose event loop is gone."""

    async def close(self) -> None:
        await self.journal.close()
        try:
            await asyncio.wait_for(self._pool.close(), PATIENCE)
        except TimeoutError:
            self._pool.terminate()


async def _revision(connection: Connection) -> str | None:
    try:
        revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
    except asyncpg.UndefinedTableError:
        return None
    return revision


async def _keep_as_it_is(_: Connection) -> None:
    """Our connections change no session state, so nothing is reset between their uses."""
