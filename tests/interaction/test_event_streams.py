"""A session's events on WebSockets while many publish, processes come and go, and subscribers with them."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from statistics import median

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.replicas import Json, Replicas, client_of, running_replicas
from tests.support.servers import ServerProcess
from tests.support.sizes import sized, within

AGENTS = """
from innkeeper import register_agent

async def echo(messages):
    return messages[-1]["content"]

register_agent("echo", echo)
"""
PUBLISHERS = 20
EACH = sized(100, 20)
SUBSCRIBERS = sized(24, 8)


@pytest.fixture(scope="module", params=["sqlite", "postgres", "postgres+redis"])
def replicas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with running_replicas(request.param, tmp_path_factory.mktemp("inn"), request, AGENTS) as running:
        yield running
        running.assert_nothing_was_raised()


@pytest.fixture
async def here(replicas: Replicas) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(replicas.one) as client:
        yield client


@pytest.fixture
async def session_id(here: httpx2.AsyncClient) -> str:
    made: str = (await here.post("/api/sessions", json={})).json()["session_id"]
    return made


def stream(server: ServerProcess, session_id: str, after: int = 0) -> connect:
    """A subscriber that keeps reading: this client's close would wait for what is held back from it."""
    url = f"ws{server.url[4:]}/api/sessions/{session_id}/events/stream?after={after}"
    return connect(url, proxy=None, max_queue=None)


async def receive(connection: ClientConnection) -> Json:
    async with asyncio.timeout(20):
        event: Json = json.loads(await connection.recv())
    return event


async def publish(client: httpx2.AsyncClient, session_id: str, **data: object) -> Json:
    answer = await client.post(f"/api/sessions/{session_id}/events", json={"event_type": "Note", "data": data})
    assert answer.status_code == 201, answer.text
    event: Json = answer.json()
    return event


async def ending(connection: ClientConnection) -> tuple[int | None, str]:
    """How the server closes, whatever it sends before."""
    with pytest.raises(ConnectionClosed):
        while True:
            await receive(connection)
    return connection.close_code, connection.close_reason or ""


async def listed(client: httpx2.AsyncClient, session_id: str, total: int) -> list[Json]:
    events: list[Json] = []
    while len(events) < total:
        page = await client.get(
            f"/api/sessions/{session_id}/events",
            params={"limit": 200, "after": events[-1]["sequence"] if events else 0},
        )
        assert page.json()["events"], page.text
        events += page.json()["events"]
    return events


async def test_who_comes_goes_and_resumes_while_many_publish_sees_every_event_once_and_in_order(
    replicas: Replicas, here: httpx2.AsyncClient, session_id: str
) -> None:
    total = PUBLISHERS * EACH
    published: list[Json] = []

    async def publisher(number: int) -> None:
        chance = random.Random(number)
        async with client_of(replicas.any(chance)) as client:
            for index in range(EACH):
                published.append(await publish(client, session_id, publisher=number, index=index))
                await asyncio.sleep(chance.random() * 0.02)

    async def subscriber(number: int) -> list[Json]:
        chance, seen = random.Random(1000 + number), list[Json]()
        while len(seen) < total:
            connection = await stream(replicas.any(chance), session_id, len(seen))
            for _ in range(chance.randint(0, 200)):
                if len(seen) < total:
                    seen.append(await receive(connection))
            if chance.random() < 0.5:
                await connection.close()
            else:
                connection.transport.abort()
            seen = seen[: len(seen) - chance.randint(0, 5)] if len(seen) < total and chance.random() < 0.3 else seen
        return seen

    watching = asyncio.gather(*(subscriber(number) for number in range(SUBSCRIBERS)))
    async with asyncio.TaskGroup() as group:
        for number in range(PUBLISHERS):
            group.create_task(publisher(number))
    told = await listed(here, session_id, total)
    assert [event["sequence"] for event in told] == list(range(1, total + 1))
    assert sorted(published, key=lambda event: int(event["sequence"])) == told
    for seen in await watching:
        assert seen == told
    for number in range(PUBLISHERS):
        own = [event["data"]["index"] for event in told if event["data"]["publisher"] == number]
        assert own == list(range(EACH)), "what one client publishes stays in its order"


async def test_event_that_one_process_stores_is_soon_seen_at_another(
    replicas: Replicas, here: httpx2.AsyncClient, session_id: str
) -> None:
    took = []
    async with stream(replicas.other, session_id) as connection:
        for index in range(20):
            began = time.monotonic()
            await publish(here, session_id, index=index)
            assert (await receive(connection))["data"] == {"index": index}
            took.append(time.monotonic() - began)
    assert median(took) < within(0.25, 0.7), "they are told, and do not only look every second"


async def test_stream_ends_wherever_its_session_is_deleted(
    replicas: Replicas, here: httpx2.AsyncClient, session_id: str
) -> None:
    async with stream(replicas.other, session_id) as connection:
        await publish(here, session_id)
        await receive(connection)
        began = time.monotonic()
        assert (await here.delete(f"/api/sessions/{session_id}")).status_code == 204
        assert await ending(connection) == (4404, "The session was deleted.")
        assert time.monotonic() - began < within(2, 15)


async def test_server_that_stops_says_from_where_to_go_on(
    replicas: Replicas, here: httpx2.AsyncClient, session_id: str
) -> None:
    for index in range(10):
        await publish(here, session_id, index=index)
    async with stream(replicas.other, session_id) as connection:
        for _ in range(10):
            await receive(connection)
        replicas.other.send_signal(signal.SIGTERM)
        code, reason = await ending(connection)
    assert (code, reason) == (1012, "The server is restarting. Connect again with ?after=10.")
    assert await asyncio.to_thread(replicas.other.wait) == 0
    await asyncio.to_thread(replicas.other.start)
    async with client_of(replicas.one) as client, stream(replicas.other, session_id, 10) as connection:
        await publish(client, session_id, index=10)
        assert (await receive(connection))["sequence"] == 11


async def test_subscriber_goes_on_elsewhere_when_its_process_is_killed(
    replicas: Replicas, here: httpx2.AsyncClient, session_id: str
) -> None:
    seen: list[int] = []
    connection = await stream(replicas.other, session_id)
    for index in range(5):
        await publish(here, session_id, index=index)
    while len(seen) < 3:
        seen.append((await receive(connection))["sequence"])
    await replicas.replace(replicas.other)
    with pytest.raises(ConnectionClosed):
        while True:
            seen.append((await receive(connection))["sequence"])
    async with client_of(replicas.one) as client, stream(replicas.one, session_id, len(seen)) as again:
        await publish(client, session_id, index=5)
        while len(seen) < 6:
            seen.append((await receive(again))["sequence"])
    assert seen == [1, 2, 3, 4, 5, 6]


async def test_run_of_one_process_is_told_at_another(
    replicas: Replicas, here: httpx2.AsyncClient, session_id: str
) -> None:
    async with stream(replicas.other, session_id) as connection:
        run = (await here.post("/chat", json={"input": "Hello", "session_id": session_id})).json()
        told = [await receive(connection) for _ in range(2)]
    assert [(event["event_type"], event["run_id"]) for event in told] == [
        ("run_started", run["run_id"]),
        ("run_ended", run["run_id"]),
    ]
    assert re.fullmatch(r"evt_.+_1", told[0]["event_id"])
