"""Copies of chat logs: a row that the logging database refuses waits, and no other row waits for it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from innkeeper.core.administration import DeriveChatLogs, Derived, ForgetUser
from innkeeper.core.chat_logs import ChatLog
from innkeeper.core.errors import StorageUnavailable
from innkeeper.services import chat_log_copies
from innkeeper.services.chat_log_copies import ChatLogCopies
from innkeeper.storage.postgres.chat_log_sinks import LoggingDatabase, PostgresChatLogSink
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.contracts.test_chat_logs import START, a_run
from tests.support.turns import ANN, BOB


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "innkeeper.db")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def sink(postgres_database: str) -> AsyncIterator[PostgresChatLogSink]:
    place = urlsplit(postgres_database)
    name, user = place.path.lstrip("/"), place.username or "postgres"
    opened = PostgresChatLogSink(LoggingDatabase(place.hostname or "127.0.0.1", place.port or 5432, name, user, ""))
    yield opened
    await opened.close()


@pytest.fixture
async def logging(postgres_database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_database)
    yield connection
    await connection.close()


async def test_a_row_that_is_refused_does_not_hold_up_the_others(
    store: SqliteStore, sink: PostgresChatLogSink, logging: asyncpg.Connection
) -> None:
    copies = ChatLogCopies(store.journal, store.chat_logs, sink)
    assert await copies.copy() == 0
    await a_run(store, "first")
    await store.journal.commit((DeriveChatLogs(copies=True),))
    assert await copies.copy() == 1
    await logging.execute("ALTER TABLE chat_logs ADD CONSTRAINT short CHECK (length(session_id) < 10)")
    refused = await a_run(store, "much too long", second=1)
    for second in range(2, 130):
        await a_run(store, "short", second=second)
    await store.journal.commit((DeriveChatLogs(copies=True),))
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match=f"refused 1 rows, such as that of {refused.run.id}: .*short"):
            await copies.copy()
    assert await logging.fetchval("SELECT count(*) FROM chat_logs") == 129
    assert [row.run_id for row in await store.chat_logs.uncopied(9)] == [refused.run.id]
    await logging.execute("ALTER TABLE chat_logs DROP CONSTRAINT short")
    assert await copies.copy() == 1
    assert not await store.chat_logs.uncopied(9)


async def test_however_many_are_refused_the_others_are_copied(
    store: SqliteStore, sink: PostgresChatLogSink, logging: asyncpg.Connection
) -> None:
    copies = ChatLogCopies(store.journal, store.chat_logs, sink)
    first = await a_run(store, "short")
    await store.journal.commit((DeriveChatLogs(copies=True),))
    assert await copies.copy() == 1
    await logging.execute("ALTER TABLE chat_logs ADD CONSTRAINT short CHECK (length(session_id) < 10)")
    refused_like(store, first.run.id.removeprefix("run_"), 700)
    await a_run(store, "short", second=1)
    await store.journal.commit((DeriveChatLogs(copies=True),))
    with pytest.raises(StorageUnavailable, match="refused 700 rows"):
        await copies.copy()
    assert await logging.fetchval("SELECT count(*) FROM chat_logs") == 2


async def test_refused_rows_are_offered_again_and_new_ones_do_not_wait_for_that(
    store: SqliteStore, sink: PostgresChatLogSink, logging: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (
        ("_FIRST_RETRY", 0.01),
        ("_LAST_RETRY", 0.01),
        ("_EVERY_SECONDS", 0.1),
        ("_WHOLE_SECONDS", 0.3),
    ):
        monkeypatch.setattr(chat_log_copies, name, seconds)
    copies = ChatLogCopies(store.journal, store.chat_logs, sink)
    assert await copies.copy() == 0
    await sink.forget_runs(())  # makes the table
    await logging.execute("ALTER TABLE chat_logs ADD CONSTRAINT short CHECK (length(session_id) < 10)")
    copies.open()
    for second, session_id in enumerate(("much too long", "short", "short"), 1):
        await a_run(store, session_id, second=second)
        await store.journal.commit((DeriveChatLogs(copies=True),))
        copies.wake()
        await _until(logging, second - 1)
    await logging.execute("ALTER TABLE chat_logs DROP CONSTRAINT short")
    await _until(logging, 3)
    await copies.close(1)
    assert not await store.chat_logs.uncopied(9)


async def _until(logging: asyncpg.Connection, count: int) -> None:
    async with asyncio.timeout(10):
        while await logging.fetchval("SELECT count(*) FROM chat_logs") < count:
            await asyncio.sleep(0.01)


def refused_like(store: SqliteStore, id: str, count: int) -> None:
    """Rows such as this one, after it, in a session with a long name; they wait to be copied."""
    with closing(sqlite3.connect(store.database)) as file, file:
        (columns,) = file.execute("SELECT group_concat(name) FROM pragma_table_info('chat_logs')").fetchone()
        shown = columns.replace("run_id", "'run_' || id || printf('-%04d', n)").replace("session_id", "'much too long'")
        shown = shown.replace("id,", "id || printf('-%04d', n),", 1)
        numbers = f"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count})"
        file.execute(f"INSERT INTO chat_logs {numbers} SELECT {shown} FROM chat_logs, s WHERE id = '{id}'")
        file.execute("INSERT INTO outbox SELECT 'copy', run_id FROM chat_logs WHERE session_id = 'much too long'")


class Meanwhile(PostgresChatLogSink):
    """Has something happen once rows have been written, before whoever wrote them hears of it."""

    happens: Callable[[], Awaitable[object]]

    async def write(self, rows: Sequence[ChatLog]) -> Mapping[str, str]:
        refused = await super().write(rows)
        await self.happens()
        return refused


async def test_a_row_that_is_erased_while_it_is_copied_is_erased_there_as_well(
    store: SqliteStore, sink: PostgresChatLogSink, logging: asyncpg.Connection
) -> None:
    async def forget() -> None:
        while (await store.journal.commit((ForgetUser("bob", "acme", "somebody", START),))) != (Derived(0),):
            pass

    slow = Meanwhile(sink._place)
    slow.happens = forget
    copies = ChatLogCopies(store.journal, store.chat_logs, slow)
    for caller in (ANN, BOB):
        await a_run(store, caller=caller)
    await store.journal.commit((DeriveChatLogs(copies=True),))
    await copies.copy()
    await slow.close()
    assert await logging.fetch("SELECT owner FROM chat_logs") == [("ann",)]
