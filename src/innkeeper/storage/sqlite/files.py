"""The database file: where it is, who holds it, and connections to it.

Invariant: whoever holds the lock is the only process that serves from this file, so every run that is open
when the lock is taken belongs to a dead process.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import sqlite3
from pathlib import Path

from innkeeper.core.errors import SetupError, StorageFull, StorageUnavailable, StoreInUse

_CLOSING_SECONDS = 5.0


_logger = logging.getLogger(__name__)


class StoreLock:
    """An advisory lock beside the database, released by the kernel when its process dies."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises: StoreInUse, with the pid of the holder."""
        try:
            self._take()
        except StoreInUse as error:
            if error.details["pid"] != str(os.getpid()):
                raise
            gc.collect()  # an app that nobody refers to any more lets go of its folder when it is collected
            self._take()

    def _take(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            if holder == str(os.getpid()):
                raise StoreInUse(
                    f"Another app of this very process (pid {holder}) uses the data folder {self._path.parent}. Serve"
                    " one app, stop the other first, or give each its own with settings=load_settings({'data_dir': …})."
                    " In tests, innkeeper.testing.create_test_client does so.",
                    details={"pid": holder},
                ) from None
            raise StoreInUse(
                f"Another server (pid {holder}) uses the data folder {self._path.parent}. Stop it, give this one"
                " another --data-dir, or set DATABASE_URL to PostgreSQL to run several.",
                details={"pid": holder},
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def prepare_folder(database: Path) -> None:
    """Make the folder of a database, private to this user.

    Raises: SetupError that names the folder and the cause.
    """
    folder = database.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"The data folder {folder} cannot be made ({error.strerror}). Choose another with --data-dir."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SetupError(f"The data folder {folder} cannot be written by this user. Choose another with --data-dir.")


def connect(database: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection with the pragmas that our promises rest on; transactions are begun by hand.

    Raises: SetupError if the file is not a usable database.
    """
    try:
        if not database.exists():
            os.close(os.open(database, os.O_RDWR | os.O_CREAT, 0o600))
        # The last connection before this one may be closing, and holds the file alone while it does.
        connection = sqlite3.connect(
            database, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=_CLOSING_SECONDS
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 20000")
        connection.execute("PRAGMA cache_size = -16000")
        if read_only:
            connection.execute("PRAGMA query_only = 1")
    except (OSError, sqlite3.Error) as error:
        raise SetupError(f"The database {database} cannot be opened: {error}.") from error
    return connection


def is_locked(error: BaseException) -> bool:
    """Whether a later try may succeed."""
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )


def storage_error(error: BaseException) -> StorageUnavailable:
    """What a driver's error means to the rest of the server; the text of the error stays in its cause."""
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        failure: StorageUnavailable = StorageFull("The disk that holds the store is full.")
    elif is_locked(error):
        failure = StorageUnavailable("The store is locked by another program.")
    else:
        _logger.error("SQLite refused a statement: %s: %s", type(error).__name__, error)
        failure = StorageUnavailable("The store could not carry this out.")
    failure.__cause__ = error
    return failure
