"""Fixtures that every test may ask for: real services and real servers.

`TEST_DATABASE_URL` and `TEST_REDIS_URL` name services that run already. A service that cannot be had skips
its tests on your machine and fails them where `CI` is set.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpcore2
import pytest

from innkeeper.core.errors import SetupError
from innkeeper.runtimes import weights
from tests.support.servers import ServerFactory
from tests.support.services import ServiceMissing, running_postgres, running_redis


@pytest.fixture(scope="session", autouse=True)
def certificates() -> Iterator[None]:
    """Those that this machine trusts are read once: every client of a test would take a fiftieth of a second for it."""

    @cache
    def made(is_trusted: bool, *_: str | None) -> ssl.SSLContext:
        return load(_trust_env=is_trusted)

    def default_ssl_context(*, _trust_env: bool = True) -> ssl.SSLContext:
        return made(_trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))

    load = httpcore2.default_ssl_context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", default_ssl_context)
        yield


def _unavailable(missing: ServiceMissing) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"A service is missing. {missing}", pytrace=False)
    pytest.skip(f"A service is missing. {missing}")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL's administrative database: `postgresql://…`, without a driver's name."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    try:
        with running_postgres() as url:
            yield url
    except ServiceMissing as missing:
        _unavailable(missing)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis; tests share it, so they prefix their keys."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    try:
        with running_redis() as url:
            yield url
    except ServiceMissing as missing:
        _unavailable(missing)


@pytest.fixture
async def postgres_database(postgres_url: str) -> AsyncIterator[str]:
    """The URL of an empty database of this test's own."""
    import asyncpg

    name = f"test_{uuid4().hex}"
    administrator = await asyncpg.connect(postgres_url)
    try:
        await administrator.execute(f"CREATE DATABASE {name}")
        yield urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
        await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await administrator.close()


@pytest.fixture
def innkeeper_server(tmp_path: Path) -> Iterator[ServerFactory]:
    """Starts servers as processes of their own: `innkeeper_server("agents.py", "--log-level", "debug")`."""
    factory = ServerFactory(tmp_path)
    yield factory
    factory.close()


@pytest.fixture(scope="session")
def weights_cache(request: pytest.FixtureRequest) -> Path:
    """A cache folder that holds the weights of smollm2: `INNKEEPER_TEST_CACHE`, or pytest's own, kept for reruns."""
    chosen = os.environ.get("INNKEEPER_TEST_CACHE")
    folder = Path(chosen) if chosen else request.config.cache.mkdir("innkeeper")
    try:
        weights.pull("smollm2", folder)
    except SetupError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(error.message)
    return folder
