"""Migrations build exactly the tables of the code, all or nothing, on both dialects."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from innkeeper.core.errors import SetupError
from innkeeper.core.outcomes import Accepted
from innkeeper.core.session_events import EventFilter
from innkeeper.storage import migrations, schema
from innkeeper.storage.postgres.stores import PostgresStore
from innkeeper.storage.sqlite.files import connect
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import (
    Store,
    accept,
    accepted_by,
    end,
    inject,
    injected_by,
    session_called,
    spoken,
    take_turn,
    taken_by,
    taken_over,
)

_NOT_COPIED = {"alembic_version", "session_events"}
"""The log of sessions had no rows yet; it is written from the runs."""

_PARTIAL = {"runs_one_at_a_time", "runs_unfinished", "runs_in_queue", "runs_of_traces", "runs_by_user"}


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


def _shape(database: Path) -> dict[str, Any]:
    """Everything that a database says of its tables, whatever the order of their columns, and all of their rows."""
    told: dict[str, Any] = {}
    with closing(sqlite3.connect(database)) as connection:
        made = dict(connection.execute("SELECT name, coalesce(sql, '') FROM sqlite_master").fetchall())
        tables = connection.execute("SELECT name, wr FROM pragma_table_list WHERE schema = 'main'").fetchall()
        for name, without_rowid in tables:
            columns = connection.execute(
                "SELECT name, type, [notnull], dflt_value, pk FROM pragma_table_info(?)", (name,)
            )
            told[name] = (
                without_rowid,
                sorted(columns),
                name in made and list(connection.execute(f"SELECT * FROM {name}")),
            )
            indexes = connection.execute("SELECT name, [unique], partial FROM pragma_index_list(?)", (name,)).fetchall()
            for index, unique, partial in indexes:
                parts = connection.execute("SELECT seqno, name, [desc] FROM pragma_index_xinfo(?) WHERE key", (index,))
                where = made.get(index, "").partition("WHERE")[2].split()
                told[f"{name}.{index}"] = unique, partial, parts.fetchall(), where
    return told


def test_a_new_sqlite_database_is_made_as_the_scripts_would_have_left_it(tmp_path: Path) -> None:
    migrations.upgrade(f"sqlite:///{tmp_path / 'scripts.db'}")
    with closing(connect(tmp_path / "new.db")) as connection:
        migrations.migrate_sqlite(connection, tmp_path / "new.db")
    shapes = [_shape(tmp_path / name) for name in ("new.db", "scripts.db")]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) > 80


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


def _make_first_tables(url: str) -> None:
    """The tables as the first revision had them."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["url"] = url
    command.upgrade(config, "0001")


async def _live_a_little(store: Store) -> str:
    """A turn, and another that is under way; returns the id of its run."""
    await store.open()
    await take_turn(store, "q", "s", "a")
    running = await accepted_by(store, accept("q2", "s"))
    await store.close()
    return running.run.id


async def _goes_on(store: Store, run_id: str) -> None:
    """The run that was under way is taken over, what is said to its session reaches it, and the session goes on."""
    await store.open()
    page, total = await store.events.page(await session_called(store, "s"), EventFilter(), limit=10)
    assert [(event.sequence, event.event_type) for event in page] == [
        (1, "run_started"),
        (2, "run_ended"),
        (3, "run_started"),
    ]
    assert total == 3
    assert page[1].data["agent_name"] == "echo"
    told = await injected_by(store, inject("more", run_id=run_id))
    assert told.status == "accepted"
    ((run, held),) = await taken_over(store)
    assert (run.id, run.attempt, run.is_cancelling) == (run_id, 1, False)
    await store.journal.commit((end(Accepted(run, None), "cut", status="interrupted"),), held)
    seen = await take_turn(store, "q3", "s")
    assert [message.text for message in seen] == ["q", "a", "q2", "cut", "more", "q3"]
    await accepted_by(store, accept("q4", "s", background=True, webhook="https://example.com"))
    assert await taken_by(store) is not None
    await store.close()


async def test_a_sqlite_database_of_the_first_revision_is_brought_up_to_date_with_what_it_holds(tmp_path: Path) -> None:
    current, old = SqliteStore(tmp_path / "current.db"), SqliteStore(tmp_path / "old.db")
    run_id = await _live_a_little(current)
    await asyncio.to_thread(_make_first_tables, f"sqlite:///{old.database}")
    with closing(sqlite3.connect(old.database)) as connection:
        connection.execute("ATTACH ? AS current", (str(current.database),))
        for (table,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            names = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
            if table not in _NOT_COPIED:
                connection.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM current.{table}")
        connection.commit()
    assert await old.migrate() == ("0001", migrations.HEAD)
    await _goes_on(old, run_id)


async def test_a_postgres_database_of_the_first_revision_is_brought_up_to_date_with_what_it_holds(
    migrated_database: str, postgres_database: str
) -> None:
    run_id = await _live_a_little(PostgresStore(migrated_database))
    await asyncio.to_thread(_make_first_tables, postgres_database)
    current, old = await asyncpg.connect(migrated_database), await asyncpg.connect(postgres_database)
    for table in await old.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        columns = await old.fetch("SELECT column_name FROM information_schema.columns WHERE table_name = $1", table[0])
        names = [column[0] for column in columns]
        if table[0] not in _NOT_COPIED:
            rows = await current.fetch(f"SELECT {', '.join(names)} FROM {table[0]}")
            await old.copy_records_to_table(table[0], records=map(tuple, rows), columns=names)
    await current.close()
    await old.close()
    store = PostgresStore(postgres_database)
    with pytest.raises(SetupError, match=r"revision 0001, not .* Run: innkeeper migrate"):
        await store.open()
    assert await store.migrate() == ("0001", migrations.HEAD)
    await _goes_on(store, run_id)
