"""Migrations: Alembic scripts, shipped in the package and applied by `innkeeper migrate`.

SQLite is brought up to date at start; the usual start only compares one row with `HEAD`, so that Alembic is
not even imported.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

HEAD = "0001"
"""The newest revision; a test compares it with the scripts."""

_FOLDER = Path(__file__).parent


def migrate_sqlite(connection: sqlite3.Connection, database: Path) -> None:
    """Bring a SQLite database up to `HEAD`."""
    if current_sqlite_revision(connection) != HEAD:
        upgrade(f"sqlite:///{database}")


def current_sqlite_revision(connection: sqlite3.Connection) -> str | None:
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError:
        return None
    return None if row is None else str(row[0])


def upgrade(url: str) -> None:
    """Apply every missing migration to the database at a SQLAlchemy `url`, synchronously."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["url"] = url
    command.upgrade(config, "head")
