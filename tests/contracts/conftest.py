"""Every store that the README names, empty, open, behind one fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from innkeeper.storage.postgres.stores import PostgresStore
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.turns import Store


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> str:
    """The name of a database with all tables, to make others from."""
    return a_migrated_database(postgres_url)


@pytest.fixture(params=["sqlite", "postgres"])
def store_maker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Makes stores, not yet open, on one and the same empty database."""
    if request.param == "sqlite":
        yield lambda: SqliteStore(tmp_path / "data" / "innkeeper.db")
        return
    server, template = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_template")
    with a_copy_of(template, server) as url:
        yield lambda: PostgresStore(url)


@pytest.fixture
async def store(store_maker: Callable[[], Store]) -> AsyncIterator[Store]:
    opened = store_maker()
    await opened.open()
    yield opened
    await opened.close()
