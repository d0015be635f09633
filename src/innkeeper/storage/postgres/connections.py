"""Connections: where a PostgreSQL is, how it is reached, and what its errors mean to the rest of the server.

Invariant: no message that is made here holds a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import asyncpg

from innkeeper.core.errors import InnkeeperError, SetupError, StorageFull, StorageUnavailable
from innkeeper.storage.statements import Compiled

_logger = logging.getLogger(__name__)

Connection = Any
"""asyncpg's own or its pool's proxy; asyncpg has no common type for the two."""

PATIENCE = 4.5
"""Seconds after which the store counts as not answering: whoever asks is told so within five."""

_FIRST_PAUSE, _LAST_PAUSE = 0.02, 0.5
_LATE = 1.0
"""Seconds by which a deadline is missed only if this process has stood still."""

_TRANSIENT_CLASSES = ("08", "40", "53", "57")
_TRANSIENT_CODES = ("55P03", "0A000")
_RACES = (
    "sessions_by_name",
    "runs_one_at_a_time",
    "idempotency_keys_pkey",
    "workers_pkey",
    "admins_pkey",
    "admins_by_workos_id",
    "balances_pkey",
)
_NO_ADDRESS = (
    "DATABASE_URL is not an address that can be used; it should read"
    " postgresql://user:password@host:port/database, with special characters percent-encoded."
)
_SETTINGS = {
    "jit": "off",
    "lock_timeout": "4s",
    # Less than a worker is waited for that stands still: by then its locks must be gone.
    "idle_in_transaction_session_timeout": "8s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

ValueT = TypeVar("ValueT")


class Address:
    """A `DATABASE_URL`: `postgresql://user:password@host:port/database?sslmode=…`, or `postgres://…`."""

    def __init__(self, url: str) -> None:
        """Raises: SetupError."""
        scheme, _, rest = url.partition("://")
        self.url = f"{scheme.partition('+')[0]}://{rest}"
        try:
            parts = urlsplit(self.url)
        except ValueError:
            raise SetupError(_NO_ADDRESS) from None
        if "@" in parts.path:  # a password with a slash in it: what looks like the host is a piece of it
            raise SetupError(_NO_ADDRESS)
        self.server = parts.netloc.rpartition("@")[2] or "the default host"
        self.database = unquote(parts.path.lstrip("/")) or "the default database"

    def __str__(self) -> str:
        return f"PostgreSQL, {self.database} at {self.server}"

    @property
    def options(self) -> Mapping[str, Any]:
        """What asyncpg's `connect` and `create_pool` are called with."""
        return {
            "dsn": self.url,
            "timeout": PATIENCE,
            "statement_cache_size": 256,
            "server_settings": {**_SETTINGS, "application_name": f"innkeeper, pid {os.getpid()}"},
        }

    async def connect(self) -> Connection:
        """Raises: SetupError that names the cause."""
        try:
            return await asyncpg.connect(**self.options)
        except Exception as error:  # noqa: BLE001 - asyncpg raises of every kind, and each is told apart
            raise self._setup_error(error) from None

    def _setup_error(self, error: Exception) -> SetupError:
        match error:
            case asyncpg.InvalidAuthorizationSpecificationError():
                told = f"{self} refused the user or the password: {error}. Check DATABASE_URL."
            case asyncpg.InvalidCatalogNameError():
                told = f"There is no database {self.database} at {self.server}. Create it, or check DATABASE_URL."
            case asyncpg.PostgresError():
                told = f"{self} refused the connection: {error}."
            case OSError():
                told = f"{self} cannot be reached ({_cause(error)}). Is it running, and is DATABASE_URL right?"
            case _:  # its text may quote a piece of the URL, and so of the password
                told = _NO_ADDRESS
        return SetupError(told)


def _cause(error: OSError) -> str:
    return f"no answer within {PATIENCE:g} s" if isinstance(error, TimeoutError) else str(error)


def arguments(sql: Compiled, values: Mapping[str, Any]) -> list[Any]:
    """The values in order, without the one character that PostgreSQL's text cannot hold."""
    return [
        value.replace("\0", "\ufffd") if type(value) is str and "\0" in value else value
        for value in sql.arguments(values)
    ]


def drop(connection: Connection) -> None:
    """End a connection without a word; the pool makes another when it is needed."""
    with contextlib.suppress(asyncpg.InterfaceError):  # the pool has noticed by itself
        connection.terminate()


async def patiently(attempt: Callable[[], Awaitable[ValueT]], deadline: float) -> ValueT:
    """Try again what a later moment may cure, until `deadline` on the loop's clock.

    Where this process has stood still meanwhile, the store had no chance to answer, and gets another.

    Raises: StorageUnavailable, StorageFull; whatever core error the attempt raises.
    """
    loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                return await attempt()
        except InnkeeperError:
            raise
        except Exception as error:
            now = loop.time()
            if now > deadline + _LATE:
                deadline = now + PATIENCE
            if not _is_transient(error) or now + pause >= deadline:
                raise storage_error(error) from error
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LAST_PAUSE)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, asyncpg.DiskFullError):
        return False
    if isinstance(error, asyncpg.UniqueViolationError):
        return error.constraint_name in _RACES
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or "08"
        return code[:2] in _TRANSIENT_CLASSES or code in _TRANSIENT_CODES
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def was_answered(error: BaseException) -> bool:
    """Whether the server itself refused: then nothing was committed, and the connection can be used on."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "08")[:2] not in ("08", "57")


def storage_error(error: Exception) -> StorageUnavailable:
    """What a driver's error means to the rest of the server; the text of the error stays in its cause."""
    if isinstance(error, asyncpg.DiskFullError):
        return StorageFull("The disk that holds the store is full.")
    if _is_transient(error):
        return StorageUnavailable("The store did not answer in time.")
    _logger.error("PostgreSQL refused a statement: %s: %s", type(error).__name__, getattr(error, "message", ""))
    return StorageUnavailable("The store could not carry this out.")
