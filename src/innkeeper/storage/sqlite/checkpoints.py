"""Checkpoints: moving the write-ahead log into the database beside the commits, not inside one of them.

SQLite's own checkpoint runs in whichever COMMIT fills the log, and that one waits for a hundred milliseconds.
Here a thread does the bulk of it while commits go on; only when a log under constant load never gets to an end
are writers held off for the rest.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from innkeeper.storage.sqlite.files import connect

_logger = logging.getLogger(__name__)

_LOOK_EVERY = 0.25
_BATCHES = 200
_LONG_LOG = 8_000
_PATIENCE_MS = 1_000


class Checkpoints:
    """A thread with a connection of its own; `batches` tells how many commits there have been."""

    def __init__(self, database: Path, batches: Callable[[], int]) -> None:
        self._connection = connect(database)
        self._connection.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
        self._batches = batches
        self._seen = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="innkeeper-checkpoints", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY):
            batches = self._batches()
            if batches - self._seen >= _BATCHES:
                self._seen = batches
                self._checkpoint()
        self._connection.close()

    def _checkpoint(self) -> None:
        try:
            _, frames, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if frames > _LONG_LOG:
                self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except sqlite3.Error as error:
            _logger.warning("a checkpoint of the database failed and will be tried again: %s", error)

    def close(self, *, waits: bool = True) -> None:
        """End the thread, which closes its connection."""
        self._stop.set()
        if waits:
            self._thread.join()
