"""PostgreSQL databases with all tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.databases import a_copy_of, a_migrated_database


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> str:
    """The name of one, to make others from."""
    return a_migrated_database(postgres_url)


@pytest.fixture
def migrated_database(postgres_url: str, postgres_template: str) -> Iterator[str]:
    """The URL of one without rows."""
    with a_copy_of(postgres_template, postgres_url) as url:
        yield url
