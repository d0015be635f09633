"""The shared scenario's server, over every store: SQLite in a folder, PostgreSQL in a database of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.inns import Inn, running_inn


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def inn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    data_dir = tmp_path_factory.mktemp("data")
    if request.param == "sqlite":
        with running_inn(data_dir) as running:
            yield running
        return
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as url, running_inn(data_dir, database_url=url) as running:
        yield running
