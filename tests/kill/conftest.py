"""The combinations of store and bus under which servers are killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.databases import a_copy_of, a_migrated_database


@dataclass(frozen=True)
class Place:
    """Where servers keep their state: their environment, and how the test reaches the database."""

    database: str
    env: dict[str, str] = field(default_factory=dict)


@pytest.fixture(params=["sqlite", "postgres", "postgres+redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A store of the test's own, in each combination."""
    if request.param == "sqlite":
        yield Place(str(tmp_path / "data" / "innkeeper.db"))
        return
    redis = {"REDIS_URL": request.getfixturevalue("redis_url")} if request.param.endswith("redis") else {}
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as url:
        yield Place(url, {"DATABASE_URL": url, **redis})
