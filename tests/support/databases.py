"""Databases on the tests' PostgreSQL: one with all tables, and copies of it, which are made faster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from innkeeper.storage.postgres.stores import PostgresStore


def named(name: str, server: str) -> str:
    """The URL of another database of that server."""
    return urlsplit(server)._replace(path=f"/{name}").geturl()


@cache
def a_migrated_database(server: str) -> str:
    """Makes one at the first time; returns its name. Copies are made of it, and so nobody may connect to it."""
    name = f"template_{uuid4().hex}"
    _administer(server, f"CREATE DATABASE {name}")
    asyncio.run(PostgresStore(named(name, server)).migrate())
    return name


@contextmanager
def a_copy_of(template: str, server: str) -> Iterator[str]:
    """The URL of a copy, which vanishes afterwards."""
    name = f"test_{uuid4().hex}"
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield named(name, server)
    finally:
        _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(server: str, statement: str) -> None:
    async def run() -> None:
        administrator = await asyncpg.connect(server)
        try:
            await administrator.execute(statement)
        finally:
            await administrator.close()

    asyncio.run(run())
