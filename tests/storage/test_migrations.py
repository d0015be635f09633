"""Migrations build exactly the tables of the code, all or nothing, on both dialects."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from innkeeper.core.errors import SetupError
from innkeeper.storage import migrations, schema
from innkeeper.storage.postgres.stores import PostgresStore
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import spoken, take_turn

_PARTIAL = {"runs_one_at_a_time", "runs_unfinished", "runs_in_queue"}


def _differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_server_default": True})
    return list(compare_metadata(context, schema.metadata))


def _partial_indexes(connection: Connection, dialect: str) -> dict[str, str]:
    return {
        str(index["name"]): str(index["dialect_options"][f"{dialect}_where"])
        for index in inspect(connection).get_indexes("runs")
        if f"{dialect}_where" in index.get("dialect_options", {})
    }


def test_the_head_is_the_newest_script() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_heads() == [migrations.HEAD]


def test_sqlite_is_migrated_to_the_tables_of_the_code(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    for _ in range(2):
        migrations.upgrade(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        assert _differences(connection) == []
        assert _partial_indexes(connection, "sqlite").keys() == _PARTIAL
    engine.dispose()


async def test_postgres_is_migrated_to_the_tables_of_the_code(postgres_database: str) -> None:
    store = PostgresStore(postgres_database)
    for _ in range(2):
        await store.migrate()
    engine = create_async_engine(postgres_database.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
        partial = await connection.run_sync(_partial_indexes, "postgresql")
        assert partial.keys() == _PARTIAL
    await engine.dispose()


def test_a_migration_that_breaks_off_leaves_nothing_behind(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE sessions (in_the_way int)")
    connection.close()
    with pytest.raises(Exception, match="already exists"):
        migrations.upgrade(f"sqlite:///{database}")
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("sessions",)]
    connection.close()


async def test_postgres_says_how_to_migrate_and_is_never_changed_at_start(postgres_database: str) -> None:
    store = PostgresStore(postgres_database)
    with pytest.raises(SetupError, match=r"has no tables yet\. Run: innkeeper migrate"):
        await store.open()
    connection = await asyncpg.connect(postgres_database)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    await store.migrate()
    await connection.execute("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(SetupError, match=r"revision 0000, not .* Run: innkeeper migrate"):
        await store.open()
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for refused in (store.open, store.migrate):
        with pytest.raises(SetupError, match="newer than this program"):
            await refused()
    await connection.execute(f"UPDATE alembic_version SET version_num = '{migrations.HEAD}'")
    await connection.close()
    await store.open()
    await take_turn(store, "q", "s")
    await store.close()


async def test_sqlite_may_be_migrated_without_being_served(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data" / "a.db")
    await store.migrate()
    await store.open()
    await take_turn(store, "q", "s")
    assert await spoken(store, "s") == ["q", "Hello"]
    with pytest.raises(SetupError, match="uses the data folder"):
        await SqliteStore(store.database).migrate()
    await store.close()
