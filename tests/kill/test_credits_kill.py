"""A hundred requests at once for ten credits, on a server that is killed meanwhile: ten are accepted, and pay once.

Also by requests that are streamed, left and cancelled. A balance is never below zero, its entries sum up to it, and
nothing stays set aside for a run that has ended.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest

from innkeeper.core.credits import NANOS, Balance, BalanceEntry
from innkeeper.core.identity import Owner
from innkeeper.storage.sqlite.stores import SqliteStore
from innkeeper.wiring import open_balances
from tests.kill.conftest import Place
from tests.support.inns import Json
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import IS_FULL, sized
from tests.support.turns import Store, store_at

ROUNDS = sized(full=20, everyday=3)
REQUESTS = 100
CREDITS = 10
OPERATOR = Owner("local", "test")
AGENTS = '''
import asyncio
from innkeeper import pricing, register_agent

@pricing(credits_per_request=1)
async def priced(messages):
    """Costs a credit, and takes its time."""
    for word in messages[-1]["content"].split():
        yield word + " "
        await asyncio.sleep(0.01)

register_agent("priced", priced)
'''


@pytest.fixture
def server(innkeeper_server: ServerFactory, place: Place) -> ServerProcess:
    innkeeper_server.write("inn.py", AGENTS)
    return innkeeper_server("inn.py", env={"INNKEEPER_DRAIN_SECONDS": "1", "MAX_RUNS_PER_CALLER": "off", **place.env})


@pytest.fixture
async def store(server: ServerProcess, place: Place) -> AsyncIterator[Store]:
    """The server's store, from beside it."""
    opened: Store = store_at(place.database) if place.env else SqliteStore(Path(place.database))
    await opened.open(serves=False)
    yield opened
    await opened.close()


async def balance_of(store: Store, user: str) -> Balance:
    (balance,) = await store.credits.balances("local", (user,))
    assert balance.available >= 0 and balance.reserved >= 0, balance
    return balance


async def entries_of(store: Store, user: str) -> list[BalanceEntry]:
    entries, has_more = await store.credits.entries("local", user, limit=1_000)
    assert not has_more
    return list(entries)


async def settled(store: Store, user: str) -> Balance:
    """The balance, once nothing is set aside for it any more."""
    async with asyncio.timeout(30):
        while (balance := await balance_of(store, user)).reserved:
            await asyncio.sleep(0.05)
    return balance


@asynccontextmanager
async def watched(store: Store, user: str) -> AsyncIterator[None]:
    """Looks at a balance all the time: it is never below zero, and never more than was given."""

    async def look() -> None:
        while True:
            assert (await balance_of(store, user)).total <= CREDITS * NANOS
            await asyncio.sleep(0.01)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


Ask = Callable[[httpx2.AsyncClient, int], Coroutine[None, None, int | None]]


async def crowd(server: ServerProcess, ask: Ask, kill_after: int | None = None) -> list[int | None]:
    """What a hundred requests at once are answered: a status each, `None` where the server died meanwhile.

    It is killed once so many of them have been answered.
    """
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, timeout=60, limits=limits, trust_env=False) as client:
        asking = [asyncio.create_task(ask(client, number)) for number in range(REQUESTS)]
        if kill_after is not None:
            answers = asyncio.as_completed(asking)
            for _ in range(kill_after):
                await next(answers)
            server.kill()
        return await asyncio.gather(*asking)


def a_turn(user: str) -> Ask:
    async def ask(client: httpx2.AsyncClient, number: int) -> int | None:
        body = {"input": "word " * (1 + number % 10 * 10), "user_id": user}  # which takes up to a second
        try:
            answer = await client.post("/chat", json=body, headers={"idempotency-key": f"{user}-{number}"})
        except httpx2.TransportError:
            return None
        return answer.status_code

    return ask


@pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
async def test_of_a_hundred_at_once_as_many_are_accepted_as_can_pay_whatever_dies_meanwhile(
    server: ServerProcess, store: Store
) -> None:
    chance = random.Random(7)
    cut_off = 0
    for number in range(ROUNDS):  # before the first request, because who has no balance is remembered for a second
        await open_balances(store).set(OPERATOR, "local", f"user-{number}", Decimal(CREDITS))
    for number in range(ROUNDS):
        user, is_killed = f"user-{number}", number % 2 == 1
        async with watched(store, user):
            first = await crowd(server, a_turn(user), chance.randrange(REQUESTS - CREDITS // 2) if is_killed else None)
            if is_killed:
                cut_off += None in first
                await asyncio.to_thread(server.restart)
                again = await crowd(server, a_turn(user))
            else:
                assert Counter(first) == {200: CREDITS, 402: REQUESTS - CREDITS}
                again = first
        assert Counter(again)[402] == REQUESTS - CREDITS, Counter(again)
        assert set(again) <= {200, 402, 503}, "503 is what a run is told that the kill has interrupted"
        balance = await settled(store, user)
        entries = await entries_of(store, user)
        charges = [entry for entry in entries if entry.kind == "charge"]
        assert balance.total == sum(entry.amount for entry in entries) == 0
        assert [entry.amount for entry in charges] == [-NANOS] * CREDITS
        assert len({entry.run_id for entry in charges}) == CREDITS, "each run pays once"
    assert cut_off, "a kill came while requests were under way"


def left_cancelled_or_heard(user: str, accepted: list[str]) -> Ask:
    """Each third of the requests hears its stream out, leaves it, or cancels its run."""

    async def ask(client: httpx2.AsyncClient, number: int) -> int | None:
        body: Json = {"input": "word " * 10, "user_id": user, "on_disconnect": "cancel" if number % 2 else "continue"}
        async with client.stream("POST", "/chat/stream", json=body) as answer:
            if answer.status_code != 200:
                return answer.status_code
            run_id = answer.headers["x-run-id"]
            accepted.append(run_id)
            async for _ in answer.aiter_raw():
                if number % 3 == 1:
                    break
                if number % 3 == 2:
                    await client.post(f"/runs/{run_id}/cancel")
        return 200

    return ask


@pytest.mark.parametrize("place", ["sqlite", "postgres"] if IS_FULL else ["sqlite"], indirect=True)
async def test_streams_that_are_left_or_cancelled_pay_once_too(server: ServerProcess, store: Store) -> None:
    accepted: list[str] = []
    await open_balances(store).set(OPERATOR, "local", "ann", Decimal(CREDITS))
    async with watched(store, "ann"):
        statuses = await crowd(server, left_cancelled_or_heard("ann", accepted))
        balance = await settled(store, "ann")
    assert Counter(statuses) == {200: CREDITS, 402: REQUESTS - CREDITS}
    entries = await entries_of(store, "ann")
    charges = [entry for entry in entries if entry.kind == "charge"]
    assert sorted(str(entry.run_id) for entry in charges) == sorted(accepted)
    assert balance.total == sum(entry.amount for entry in entries) == 0
