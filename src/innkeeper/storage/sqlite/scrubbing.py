"""Scrubbing: what was deleted is removed from the database's files, too, where it else lies until it is overwritten.

The file is written anew, which holds off whoever writes for as long as that takes: so a large one that is being served
is left as it is.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from innkeeper.core.errors import StoreInUse
from innkeeper.storage.sqlite.files import StoreLock, connect, storage_error

LARGEST_SERVED = 128 * 1024 * 1024
"""Bytes of a database that are written anew while it is served: about a second."""

_PATIENCE = 20.0
_PAUSE = 0.05


def scrub(database: Path, *, largest_served: int = LARGEST_SERVED) -> bool:
    """Whether nothing that was deleted is left in the files. Raises: StorageUnavailable."""
    lock, is_served = StoreLock(database), False
    try:
        lock.acquire()
    except StoreInUse:
        is_served = True
    try:
        if is_served and database.stat().st_size > largest_served:
            return False
        return _rewritten(database)
    except sqlite3.Error as error:
        raise storage_error(error) from error
    finally:
        lock.release()


def _rewritten(database: Path) -> bool:
    connection = connect(database)
    try:
        connection.execute(f"PRAGMA busy_timeout = {int(_PATIENCE * 1000)}")
        connection.execute("VACUUM")
        deadline = time.monotonic() + _PATIENCE
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
        return True
    finally:
        connection.close()
