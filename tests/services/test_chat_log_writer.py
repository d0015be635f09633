"""The writer of chat logs and their retention: behind the runs, caught up at the start, and outlasting the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from innkeeper.core.chat_logs import ChatLogFilter
from innkeeper.services.chat_log_retention import ChatLogRetention
from innkeeper.services.chat_log_writer import ChatLogWriter
from innkeeper.storage.postgres.stores import PostgresStore
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.contracts.test_chat_logs import START, a_run
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.doorways import Doorway
from tests.support.sizes import IS_FULL
from tests.support.turns import ANN, Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "innkeeper.db")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def database(postgres_url: str) -> Iterator[str]:
    with a_copy_of(a_migrated_database(postgres_url), postgres_url) as url:
        yield url


async def rows(store: Store, count: int) -> int:
    """How many rows there are, once there are as many as that."""
    async with asyncio.timeout(30):
        while True:
            _, total = await store.chat_logs.page(ANN, ChatLogFilter(), limit=1)
            if total >= count:
                return total
            await asyncio.sleep(0.01)


async def test_what_others_left_is_written_at_the_start_and_what_ends_here_soon_after(store: SqliteStore) -> None:
    for second in range(3):
        await a_run(store, second=second)
    writer = ChatLogWriter(store.journal, store.chat_logs)
    writer.open()
    assert await rows(store, 3) == 3
    ended = await a_run(store, second=4)
    writer.ended(ended.run)
    assert await rows(store, 4) == 4
    await writer.close(2)


async def test_what_ends_together_is_written_in_one_commit(store: SqliteStore) -> None:
    writer = ChatLogWriter(store.journal, store.chat_logs)
    told: list[None] = []
    writer.on_rows = lambda: told.append(None)
    writer.open()
    for second in range(5):
        writer.ended((await a_run(store, second=second)).run)
    assert await rows(store, 5) == 5
    await writer.close(2)
    assert len(told) <= 2


async def test_a_stop_writes_what_is_left(store: SqliteStore) -> None:
    writer = ChatLogWriter(store.journal, store.chat_logs)
    writer.open()
    await a_run(store)
    await writer.close(2)
    assert not await store.chat_logs.has_underived()
    assert await rows(store, 1) == 1


async def test_rows_older_than_the_days_that_were_chosen_are_dropped_in_small_steps(store: SqliteStore) -> None:
    day = 86_400
    for second in (0, 1, 2, 3 * day, 3 * day + 1):
        await a_run(store, second=second)
    await ChatLogWriter(store.journal, store.chat_logs).write()
    now = START + 4 * day * 1_000_000
    retention = ChatLogRetention(store.journal, now=lambda: now, days=2, at_once=2)
    assert await retention.forget() == 3
    assert await rows(store, 2) == 2
    assert await retention.forget() == 0


@pytest.mark.skipif(not IS_FULL, reason="waits until a store counts as away")
async def test_a_store_that_is_away_is_waited_for(database: str, caplog: pytest.LogCaptureFixture) -> None:
    place = urlsplit(database)
    doorway = Doorway(place.hostname or "127.0.0.1", place.port or 5432)
    await doorway.open()
    through = place._replace(netloc=f"postgres@127.0.0.1:{doorway.port}").geturl()
    direct, distant = PostgresStore(database), PostgresStore(through)
    await direct.open()
    await distant.open()
    writer = ChatLogWriter(distant.journal, distant.chat_logs)
    writer.open()
    doorway.shut()
    writer.ended((await a_run(direct)).run)
    async with asyncio.timeout(60):
        while "chat logs are written later" not in caplog.text:
            await asyncio.sleep(0.05)
    await doorway.open()
    assert await rows(direct, 1) == 1
    await writer.close(2)
    await distant.close()
    await direct.close()
    doorway.shut()
