"""The server lock: an advisory lock on a connection of its own, released by PostgreSQL when that one ends.

Until runs have owners that prove to be alive, one server serves from a database, so that every run that is
open when the lock is taken belongs to a dead process. Command-line tools may write beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from innkeeper.core.errors import SetupError, StoreInUse
from innkeeper.storage.postgres.connections import Address, Connection

_logger = logging.getLogger(__name__)

_KEY = int.from_bytes(b"innkeepr")
_TRIES, _PAUSE = 20, 0.1
_HOLDER = """
    SELECT coalesce(activity.application_name, 'unknown'), coalesce(host(activity.client_addr), 'local')
    FROM pg_locks AS held LEFT JOIN pg_stat_activity AS activity USING (pid)
    WHERE held.locktype = 'advisory' AND held.granted AND held.database = (
        SELECT oid FROM pg_database WHERE datname = current_database()
    ) AND (held.classid::bigint << 32 | held.objid::bigint) = $1
"""


class ServerLock:
    """Held from `acquire` to `release`; taken again when its connection was lost meanwhile."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: Connection = None
        self._regaining: asyncio.Task[None] | None = None

    async def acquire(self, connection: Connection) -> None:
        """Keep `connection` for the lock. A server that has just died may hold it for a moment yet.

        Raises: StoreInUse, naming the holder.
        """
        for _ in range(_TRIES):
            if await connection.fetchval("SELECT pg_try_advisory_lock($1)", _KEY):
                self._connection = connection
                connection.add_termination_listener(self._lost)
                return
            await asyncio.sleep(_PAUSE)
        holder = await connection.fetchrow(_HOLDER, _KEY)
        name, host = tuple(holder) if holder else ("unknown", "unknown")
        raise StoreInUse(
            f"Another server ({name}, at {host}) serves from the database {self._address}. Stop it, or give this"
            " one a database of its own.",
            details={"holder": name, "host": host},
        )

    def _lost(self, _: Connection) -> None:
        if self._connection is not None:
            self._regaining = asyncio.get_running_loop().create_task(self._regain())

    async def _regain(self) -> None:
        _logger.warning("the connection to %s that holds the server lock was lost", self._address)
        while True:
            await asyncio.sleep(1.0)
            try:
                connection = await self._address.connect()
            except SetupError:
                continue
            try:
                await self.acquire(connection)
            except StoreInUse as error:
                _logger.critical("while the database was away, its lock was taken: %s", error)
            except OSError:
                pass
            else:
                return
            await connection.close()

    def abandon(self) -> None:
        """Release it although the event loop is gone: the server sees the connection end."""
        connection, self._connection = self._connection, None
        transport = getattr(connection, "_transport", None)
        if transport is not None:
            with contextlib.suppress(OSError):
                transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    async def release(self) -> None:
        connection, self._connection = self._connection, None
        if self._regaining is not None:
            self._regaining.cancel()
        if connection is not None:
            connection.terminate()
