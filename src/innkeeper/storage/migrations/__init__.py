"""Migrations: Alembic scripts, shipped in the package and applied by `innkeeper migrate`.

SQLite is brought up to date at start; the usual start only compares one row with `HEAD`, and a new database is made as
the scripts would have left it, so that Alembic is not even imported.
"""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path

from innkeeper.core.errors import SetupError

HEAD = "0005"
"""The newest revision; a test compares it with the scripts."""

_FOLDER = Path(__file__).parent


def migrate_sqlite(connection: sqlite3.Connection, database: Path) -> None:
    """Bring a SQLite database up to `HEAD`.

    Raises: SetupError.
    """
    revision = current_sqlite_revision(connection)
    if revision is not None and revision > HEAD:
        raise SetupError(f"The database {database} is newer than this program. Upgrade innkeeper.")
    if revision is None and _is_empty(connection):
        _create(connection)
    elif revision != HEAD:
        upgrade(f"sqlite:///{database}")


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _create(connection: sqlite3.Connection) -> None:
    """All tables at once, where nobody else has made them meanwhile. A test compares the result with the scripts'."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _is_empty(connection):
            for statement in _creation():
                connection.execute(statement)
            connection.execute("INSERT INTO alembic_version (version_num) VALUES (?)", (HEAD,))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@cache
def _creation() -> tuple[str, ...]:
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.schema import CreateIndex, CreateTable

    from innkeeper.storage.schema import metadata

    dialect, statements = sqlite.dialect(), []
    for table in metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)))
        statements += sorted(str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes)
    return (
        *statements,
        "INSERT INTO audit_head (id, number, digest) VALUES (1, 0, '')",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
    )


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
