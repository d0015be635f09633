"""The bus over PostgreSQL where it differs: its addresses, its errors, and what it does in the database."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from innkeeper.buses.postgres import PostgresBus
from innkeeper.core.errors import SetupError
from tests.support.buses import Ear
from tests.support.services import free_port, running_postgres

SECRET = "hunter2"


@pytest.fixture(scope="module")
def own_server() -> Iterator[str]:
    """A server that asks the user `locked` for a password, and lets `mute` send nothing."""
    with running_postgres() as url:
        asyncio.run(_restrict_users(url))
        yield url


async def _restrict_users(url: str) -> None:
    administrator = await asyncpg.connect(url)
    await administrator.execute("CREATE ROLE locked LOGIN PASSWORD 'another'")
    await administrator.execute("CREATE ROLE mute LOGIN; REVOKE EXECUTE ON FUNCTION pg_notify FROM public")
    rules = Path(await administrator.fetchval("SHOW hba_file"))
    rules.write_text(f"host all locked all scram-sha-256\n{rules.read_text()}")
    await administrator.execute("SELECT pg_reload_conf()")
    await administrator.close()


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("postgresql://locked:{secret}@{server}/postgres", "refused the user or the password"),
        ("postgresql://nobody_there:{secret}@{server}/postgres", "refused the user or the password"),
        ("postgresql://mute:{secret}@{server}/postgres", "permission denied for function pg_notify"),
        ("postgres://postgres:{secret}@{server}/missing", "no such database: PostgreSQL, missing at 127.0.0.1"),
        ("postgresql+asyncpg://postgres:{secret}@127.0.0.1:{free}/postgres", "cannot be reached"),
        ("postgresql://postgres:{secret}@no-such-host.invalid/postgres", "cannot be reached"),
        ("postgresql://postgres:{secret}@{server}/postgres?sslmode=require", "cannot be reached"),
        ("postgresql://postgres:{secret}/x@127.0.0.1/postgres", "percent-encoded"),
        ("postgresql://localhost:{free}/{secret}@127.0.0.1/postgres", "percent-encoded"),
        ("postgresql://localhost:{free}?a={secret}@127.0.0.1/postgres", "percent-encoded"),
        ("postgresql://localhost:{free}#{secret}@127.0.0.1/postgres", "percent-encoded"),
        ("postgresql://postgres:{secret}@{server}/postgres?sslmode={secret}", "percent-encoded"),
        ("postgresql://postgres:{secret}@[{secret}/postgres", "percent-encoded"),
        ("{secret}", "percent-encoded"),
    ],
)
async def test_a_database_that_cannot_be_used_is_told_with_the_cause_and_without_the_password(
    own_server: str, url: str, cause: str
) -> None:
    server = own_server.partition("@")[2].partition("/")[0]
    with pytest.raises(SetupError, match=cause) as refused:
        await PostgresBus(url.format(secret=SECRET, server=server, free=free_port())).open(Ear())
    told = str(refused.value)
    error: BaseException | None = refused.value
    while error is not None:
        assert SECRET not in f"{error!r} {error} {error.__dict__}", told
        error = None if error.__suppress_context__ else error.__context__


async def test_the_address_may_name_a_driver_as_sqlalchemys_do(postgres_database: str) -> None:
    bus, heard = PostgresBus(postgres_database.replace("postgresql:", "postgresql+asyncpg:")), Ear()
    await bus.open(heard)
    administrator = await asyncpg.connect(postgres_database)
    await administrator.execute("NOTIFY innkeeper_wakes, '0123456789abcdef a'")
    await administrator.close()
    await heard.hears("a")
    await bus.close()


async def test_it_holds_one_connection_that_says_whose_it_is_and_is_in_no_transaction(postgres_database: str) -> None:
    bus = PostgresBus(postgres_database)
    await bus.open(Ear())
    administrator = await asyncpg.connect(postgres_database)
    theirs = "SELECT application_name, state FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1"
    rows = await administrator.fetch(theirs, administrator.get_server_pid())
    assert [tuple(row) for row in rows] == [(f"innkeeper bus, pid {os.getpid()}", "idle")]
    await bus.close()
    async with asyncio.timeout(30):
        while await administrator.fetch(theirs, administrator.get_server_pid()):
            await asyncio.sleep(0.01)
    await administrator.close()


async def test_buses_of_another_database_are_not_heard(postgres_database: str, postgres_url: str) -> None:
    here, there, heard = PostgresBus(postgres_database), PostgresBus(postgres_url), Ear()
    await here.open(heard)
    await there.open(Ear())
    there.publish("a")
    await there.close()
    other = PostgresBus(postgres_database)
    await other.open(Ear())
    other.publish("b")
    await heard.hears("b")
    assert heard.topics == ["b"]
    await asyncio.gather(here.close(), other.close())
