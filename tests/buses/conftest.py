"""The servers that buses meet at."""

from __future__ import annotations

import pytest

from tests.support.buses import BusServer, PostgresServer, RedisServer


@pytest.fixture(params=["postgres", "redis"])
def server(request: pytest.FixtureRequest) -> BusServer:
    if request.param == "postgres":
        return PostgresServer(request.getfixturevalue("postgres_database"))
    return RedisServer(request.getfixturevalue("redis_url"))
