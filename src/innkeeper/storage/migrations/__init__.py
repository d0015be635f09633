"""Migrations: Alembic scripts, shipped in the package and applied by `innkeeper migrate`.

SQLite is brought up to date at start; the usual start only compares one row with `HEAD`, so that Alembic is
not even imported.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from innkeeper.core.errors import SetupError

HEAD = "0004"
"""The newest revision; a test compares it with the scripts."""

_FOLDER = Path(__file__).parent


def migrate_sqlite(connection: sqlite3.Connection, database: Path) -> None:
    """Bring a SQLite database up to `HEAD`.

    Raises: SetupError.
    """
    revision = current_sqlite_revision(connection)
    if revision is not None and revision > HEAD:
        raise SetupError(f"The database {database} is newer than this program. Upgrade innkeeper.")
    if revision != HEAD:
        upgrade(f"sqlite:///{database}")


def current_sqlite_revision(connection: sqlite3.Connection) -> str | None:
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError:
        return None
    return None if row is None else str(row[0])


def upgrade(url: str) -> None:
    """Apply every missing migration to the database at `url`, all or none; not on an event loop's thread."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["url"] = url
    command.upgrade(config, "head")
