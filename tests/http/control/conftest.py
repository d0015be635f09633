"""One server over each store for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.inns import Inn, running_inn


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def inn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    folder = tmp_path_factory.mktemp("data")
    if request.param == "sqlite":
        with running_inn(folder) as running:
            yield running
        return
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as url, running_inn(folder, database_url=url) as running:
        yield running
