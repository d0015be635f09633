"""PostgreSQL and Redis come up from wheels, and each test has a database of its own."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import asyncpg


async def test_a_database_of_ones_own_is_empty(postgres_database: str) -> None:
    connection = await asyncpg.connect(postgres_database)
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert await connection.fetchval(tables) == 0
    await connection.execute("CREATE TABLE mine (id int)")
    assert await connection.fetchval(tables) == 1
    await connection.close()


async def test_the_next_test_sees_nothing_of_it(postgres_database: str) -> None:
    connection = await asyncpg.connect(postgres_database)
    assert await connection.fetchval("SELECT to_regclass('mine')") is None
    await connection.close()


def test_redis_answers(redis_url: str) -> None:
    address = urlsplit(redis_url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(16) == b"+PONG\r\n"
