"""PostgreSQL and Redis go away under load: every call is answered in time, nobody gets in, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from innkeeper.config import load_settings
from innkeeper.core.administration import SetBalance
from innkeeper.core.credits import nanos
from innkeeper.storage.postgres.stores import PostgresStore
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.doorways import Doorway
from tests.support.replicas import client_of
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import IS_FULL, sized, within
from tests.support.tokens import a_token
from tests.support.turns import new_id, now

AGENTS = """
from innkeeper import ServerBase, pricing

app = ServerBase()


@app.agent("priced")
@pricing(credits_per_request=1)
async def priced(messages):
    return "Hello"
"""
GIVEN = 1_000_000
UNKNOWN = f"ik{'0' * 16}.{'A' * 43}"
OUTAGE_SECONDS = sized(20, 4)
LONGEST_ANSWER = 5.0
BUSY_MACHINE = 0.0 if IS_FULL else 6.0


@dataclass
class Load:
    """Clients that ask without end, and what they were answered: status, seconds, and the run."""

    answers: list[tuple[int, float, str | None]] = field(default_factory=list)
    intruders: list[tuple[int, float, str | None]] = field(default_factory=list)
    is_over: bool = False

    async def ask(self, client: httpx2.AsyncClient, token: str, told: list[tuple[int, float, str | None]]) -> None:
        while not self.is_over:
            began = time.monotonic()
            answer = await client.post("/chat", json={"input": "Hi"}, headers={"x-api-key": token})
            run_id = answer.json().get("run_id")
            told.append((answer.status_code, time.monotonic() - began, run_id))
            await asyncio.sleep(0.02)

    async def is_well_again(self) -> None:
        """Return when all have been answered as they should be, several times; within a few seconds, that is."""
        told = len(self.answers)
        async with asyncio.timeout(within(5, 30)):
            while len(self.answers) < told + 24 or {status for status, *_ in self.answers[-24:]} != {200}:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def served(tmp_path: Path, database: str, redis: str) -> AsyncIterator[tuple[ServerProcess, Doorway, Doorway]]:
    """A server whose PostgreSQL and Redis are behind doors."""
    doors = []
    for url in (database, redis):
        parts = urlsplit(url)
        doors.append(Doorway(parts.hostname or "", parts.port or 0))
        await doors[-1].open()
    postgres, valkey = doors
    factory = ServerFactory(tmp_path)
    factory.write("inn.py", AGENTS)
    environment = {
        "DATABASE_URL": database.replace(f":{urlsplit(database).port}/", f":{postgres.port}/"),
        "REDIS_URL": redis.replace(f":{urlsplit(redis).port}/", f":{valkey.port}/"),
        "TOKEN_STORE": "database",
        "FORCE_AUTH": "true",
        "RATE_LIMIT_USER": "1000000/minute",
        "RATE_LIMIT_FAILED_AUTH": "off",
        "MAX_RUNS_PER_CALLER": "off",
    }
    try:
        yield await asyncio.to_thread(factory, "inn.py", env=environment), postgres, valkey
    finally:
        await asyncio.to_thread(factory.close)
        for door in doors:
            door.shut()


async def give(database: str) -> None:
    store = PostgresStore(database)
    await store.open(serves=False)
    await store.journal.commit((SetBalance("acme", "user", nanos(Decimal(GIVEN)), new_id(), "test", "", now()),))
    await store.close()


def shut(door: Doorway) -> None:
    door.shut()


def freeze(door: Doorway) -> None:
    door.freeze()


async def brought_back(door: Doorway, how: Callable[[Doorway], None]) -> None:
    if how is freeze:
        door.thaw()
    else:
        await door.open()


async def settled(client: httpx2.AsyncClient, token: str) -> dict[str, Any]:
    """The ledger's end: the balance, once nothing is set aside any more."""
    deadline = time.monotonic() + 60
    while True:
        told: dict[str, Any] = (await client.get("/credits", headers={"x-api-key": token})).json()["user"]
        if float(told["reserved"]) == 0 or time.monotonic() > deadline:
            return told
        await asyncio.sleep(0.2)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [shut, freeze])
def test_what_is_away_for_a_while_lets_nobody_in_keeps_nobody_waiting_and_loses_nothing(
    tmp_path: Path, postgres_url: str, redis_url: str, how: Callable[[Doorway], None]
) -> None:
    with a_copy_of(a_migrated_database(postgres_url), postgres_url) as database:
        asyncio.run(give(database))
        settings = load_settings({"database_url": database, "token_store": "database"})
        user, admin = (a_token(settings, role, role, organization="acme").text for role in ("user", "admin"))
        asyncio.run(outages(tmp_path, database, redis_url, how, user, admin))


async def outages(
    tmp_path: Path, database: str, redis: str, how: Callable[[Doorway], None], user: str, admin: str
) -> None:
    async with served(tmp_path, database, redis) as (server, postgres, valkey), client_of(server) as client:
        load = Load()
        asking = [asyncio.create_task(load.ask(client, user, load.answers)) for _ in range(8)]
        asking += [asyncio.create_task(load.ask(client, UNKNOWN, load.intruders)) for _ in range(2)]
        for door in (valkey, postgres):
            await asyncio.sleep(1)
            how(door)
            await asyncio.sleep(OUTAGE_SECONDS)
            await brought_back(door, how)
        await load.is_well_again()
        load.is_over = True
        await asyncio.wait_for(asyncio.gather(*asking), 60)
        await assert_all_is_well(load, client, user, admin)


async def assert_all_is_well(load: Load, client: httpx2.AsyncClient, user: str, admin: str) -> None:
    longest = max(seconds for _, seconds, _ in (*load.answers, *load.intruders))
    assert longest < LONGEST_ANSWER + BUSY_MACHINE, f"the longest answer took {longest:.1f} s"
    statuses = {status for status, *_ in load.answers}
    assert statuses <= {200, 503}, statuses
    assert {status for status, *_ in load.intruders} <= {401, 503}
    answered = {run_id for status, _, run_id in load.answers if status == 200}
    balance = await settled(client, user)
    entries = await pages(client, "/credits/entries", "entries", user)
    charges = [float(entry["credits"]) for entry in entries if entry["kind"] == "charge"]
    assert set(charges) == {-1.0}
    assert float(balance["balance"]) == GIVEN + sum(charges) and len(charges) >= len(answered)
    logged = await logs(client, admin, at_least=len(charges))
    assert answered <= logged, f"{len(answered - logged)} of {len(answered)} runs have no log row"


async def pages(client: httpx2.AsyncClient, path: str, name: str, token: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        after = f"&after={found[-1]['id']}" if found else ""
        page = (await client.get(f"{path}?limit=200{after}", headers={"x-api-key": token})).json()
        found += page[name]
        if not page["has_more"]:
            return found


async def logs(client: httpx2.AsyncClient, token: str, *, at_least: int) -> set[str]:
    """The runs that have a chat log, once they are as many."""
    deadline = time.monotonic() + 60
    while True:
        found: set[str] = set()
        total, offset = 1, 0
        while offset < total:
            answer = await client.get(f"/logs?limit=200&offset={offset}", headers={"x-api-key": token})
            page = answer.json()
            total, offset = page["total"], offset + 200
            found |= {row["run_id"] for row in page["logs"]}
        if len(found) >= at_least or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.5)
