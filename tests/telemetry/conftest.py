"""A store that can be taken away, and a logger of each test's own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from innkeeper.storage.postgres.stores import PostgresStore
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.doorways import Doorway


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "innkeeper.db")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    with a_copy_of(a_migrated_database(postgres_url), postgres_url) as url:
        yield url


@pytest.fixture
async def doorway(database: str) -> AsyncIterator[Doorway]:
    parts = urlsplit(database)
    led = Doorway(parts.hostname or "", parts.port or 5432)
    await led.open()
    yield led
    led.shut()


@pytest.fixture
async def distant_store(database: str, doorway: Doorway) -> AsyncIterator[PostgresStore]:
    """A PostgreSQL behind the doorway."""
    parts = urlsplit(database)
    address = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{doorway.port}".lstrip("@")
    opened = PostgresStore(parts._replace(netloc=address).geturl())
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("an.agent")
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.setLevel(logging.NOTSET)
