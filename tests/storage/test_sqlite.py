"""The SQLite store where it differs from others: its file, its lock, its disk."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from innkeeper.core.changes import AppendMessages
from innkeeper.core.errors import SetupError, StorageFull, StorageUnavailable, StoreInUse
from innkeeper.core.outcomes import Appended
from innkeeper.storage.migrations import HEAD, migrate_sqlite
from innkeeper.storage.sqlite.files import connect
from innkeeper.storage.sqlite.journals import SqliteJournal
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.sizes import within
from tests.support.turns import ANN, accept, create, now, spoken, take_turn, user


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "innkeeper.db")
    await opened.open()
    yield opened
    await opened.close()


class _Intruder:
    """Another program that holds the database's write lock for a while, in a process of its own."""

    def __init__(self, database: Path, seconds: float) -> None:
        code = (
            "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
            "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); time.sleep(float(sys.argv[2]))"
        )
        command = [sys.executable, "-c", code, str(database), str(seconds)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


async def test_a_database_that_is_locked_for_a_moment_delays_writes_and_fails_none(store: SqliteStore) -> None:
    intruder = _Intruder(store.database, 1.0)
    started = time.monotonic()
    try:
        await asyncio.gather(*(take_turn(store, f"q{number}", f"s{number}") for number in range(5)))
        assert time.monotonic() - started > 0.5
    finally:
        intruder.end()
    assert [await spoken(store, f"s{number}") for number in range(5)] == [[f"q{n}", "Hello"] for n in range(5)]


async def test_a_database_that_stays_locked_fails_writes_in_time_reads_go_on_and_all_is_well_after(
    store: SqliteStore,
) -> None:
    await take_turn(store, "before", "s")
    intruder = _Intruder(store.database, 60.0)
    started = time.monotonic()
    try:
        write = asyncio.ensure_future(take_turn(store, "during", "s"))
        assert await spoken(store, "s") == ["before", "Hello"]
        with pytest.raises(StorageUnavailable):
            await write
        assert time.monotonic() - started < within(9, 30)
    finally:
        intruder.end()
    await take_turn(store, "after", "s")
    assert await spoken(store, "s") == ["before", "Hello", "after", "Hello"]


async def test_a_full_disk_fails_writes_as_full_and_those_that_fit_again_are_taken(tmp_path: Path) -> None:
    connection = connect(tmp_path / "innkeeper.db")
    migrate_sqlite(connection, tmp_path / "innkeeper.db")
    journal = SqliteJournal(connection)
    made = create("s")
    await journal.commit((made,))
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    large = [journal.commit((_saying(made.session.key, "x" * 50_000),)) for _ in range(3)]
    outcomes = await asyncio.gather(*large, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StorageFull}
    connection.execute("PRAGMA max_page_count = 100000")
    (outcome,) = await journal.commit((_saying(made.session.key, "fits"),))
    assert isinstance(outcome, Appended)
    assert [stored.position for stored in outcome.messages] == [1]
    await asyncio.to_thread(journal.close)


def _saying(key: str, text: str) -> AppendMessages:
    return AppendMessages(key, (user(text),), now())


async def test_a_disk_that_refuses_the_commit_itself_fails_all_of_it_and_hangs_nobody(store: SqliteStore) -> None:
    await take_turn(store, "before", "s")
    log = store.database.with_name("innkeeper.db-wal")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, most))
    try:
        calls = [store.journal.commit((accept(f"q{number}", f"t{number}"),)) for number in range(3)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {StorageUnavailable, StorageFull}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    await take_turn(store, "after", "s")
    assert await spoken(store, "s") == ["before", "Hello", "after", "Hello"]
    assert await store.sessions.find(ANN, "t0") is None


async def test_a_second_store_on_the_same_file_is_refused_and_names_the_first(store: SqliteStore) -> None:
    second = SqliteStore(store.database)
    with pytest.raises(StoreInUse, match=str(os.getpid())):
        await second.open()
    await take_turn(store, "q", "s")


async def test_a_store_that_was_closed_may_be_opened_by_another(store: SqliteStore) -> None:
    await take_turn(store, "q", "s")
    await store.close()
    second = SqliteStore(store.database)
    await second.open()
    assert await spoken(second, "s") == ["q", "Hello"]
    await second.close()
    await store.open()


async def test_a_folder_that_is_missing_is_made_and_private(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a" / "b" / "innkeeper.db")
    await store.open()
    await store.close()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0
    assert store.database.stat().st_mode & 0o077 == 0


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=f"{tmp_path}/file/data"):
        await SqliteStore(tmp_path / "file" / "data" / "innkeeper.db").open()


async def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "innkeeper.db"
    file.write_text("These are my notes, not a database. " * 50)
    for _ in range(2):  # the second time shows that the lock was given back
        with pytest.raises(SetupError, match=f"{file}.*not a database"):
            await SqliteStore(file).open()
    assert file.read_text().startswith("These are my notes")


async def test_a_database_of_a_newer_program_is_refused(store: SqliteStore) -> None:
    await store.close()
    with sqlite3.connect(store.database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(SetupError, match="newer than this program"):
        await store.open()
    with sqlite3.connect(store.database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [HEAD])
    connection.close()
    await store.open()
