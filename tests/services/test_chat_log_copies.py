"""Copies of chat logs: a row that the logging database refuses waits, and no other row waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from innkeeper.core.administration import DeriveChatLogs
from innkeeper.core.errors import StorageUnavailable
from innkeeper.services.chat_log_copies import ChatLogCopies
from innkeeper.storage.postgres.chat_log_sinks import LoggingDatabase, PostgresChatLogSink
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.contracts.test_chat_logs import a_run


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
