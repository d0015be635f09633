"""Two processes over one store, which to clients are one server; over SQLite, the same clients and one process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.support.replicas import STORES, Replicas, client_of, ended, running_replicas, spoken
from tests.support.sizes import sized, within
from tests.support.surfaces import SURFACES, follow

AGENTS = '''
import asyncio
from innkeeper import get_context, register_agent

async def repeats(messages):
    """Says what is injected, until that is "end"."""
    yield "One two "
    while True:
        async for message in get_context().injections():
            if message.content == "end":
                return
            yield message.content
        await asyncio.sleep(0.005)

async def recalls(messages):
    return " | ".join(message["content"] for message in messages)

register_agent("repeats", repeats)
register_agent("recalls", recalls)
'''
STARTS = 4
APPENDERS = 16
APPENDS = sized(50, 8)


@pytest.fixture(scope="module", params=STORES)
def replicas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with running_replicas(request.param, tmp_path_factory.mktemp("inn"), request, AGENTS) as running:
        yield running
        running.assert_nothing_was_raised()


@pytest.fixture
async def here(replicas: Replicas) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the process in which the runs are started."""
    async with client_of(replicas.one) as client:
        yield client


@pytest.fixture
async def there(replicas: Replicas) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the other one."""
    async with client_of(replicas.other) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A session and a prompt that no other test uses."""
    return f"play-{uuid4().hex}"


async def inject(client: httpx2.AsyncClient, run_id: str, text: str) -> None:
    answer = await client.post("/inject", json={"message": text, "run_id": run_id})
    assert (answer.status_code, answer.json()["run_id"]) == (200, run_id)


@pytest.mark.parametrize("surface", SURFACES)
async def test_start_here_watch_inject_wait_and_cancel_there_and_resume_here(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, surface: str, name: str
) -> None:
    async with SURFACES[surface](here, "repeats", name, name) as started:
        run_id = started.run_id
        assert await started.until("two ") == "One two "
        async with follow(there, run_id) as watching:
            assert await watching.until("two ") == "One two "
            await inject(there, run_id, "three ")
            assert await started.until("three ") == await watching.until("three ") == "three "
            async with follow(here, run_id, after=2) as resumed:
                assert await resumed.until("three ") == "three "
                waiting = asyncio.create_task(ended(there, run_id))
                assert (await there.post(f"/runs/{run_id}/cancel")).status_code == 202
                assert await started.rest() == await watching.rest() == await resumed.rest() == ""
                assert watching.ending == resumed.ending
                assert watching.ending["status"] == "cancelled"
        assert started.ending.get("status") == "cancelled" or started.ending["error"]["code"] == "CANCELLED"
    run = await waiting
    assert (run["status"], run["output"]) == ("cancelled", "One two three ")
    logs = [(await client.get(f"/runs/{run_id}/events")).content for client in (here, there)]
    assert logs[0] == logs[1]
    told = await spoken(here, name)
    assert told == await spoken(there, name)
    assert [text for role, text in told if role == "user"] == [name, "three "]


@pytest.mark.parametrize("first", ["here", "there"])
async def test_conversation_goes_on_in_the_other_process(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, first: str, name: str
) -> None:
    one, other = (here, there) if first == "here" else (there, here)
    heard = ""
    for client, text in ((one, "Hello."), (other, "Who am I?"), (one, "And who are you?")):
        body = {"agent_name": "recalls", "input": text, "session_id": name}
        output = (await client.post("/chat", json=body)).json()["output"]
        assert output == f"{heard}{text}"
        heard = f"{output} | {output} | "
    assert await spoken(here, name) == await spoken(there, name)


async def _started(stack: AsyncExitStack, client: httpx2.AsyncClient, text: str, session_id: str) -> str:
    surface = SURFACES["POST /chat/stream"](client, "repeats", text, session_id)
    return (await stack.enter_async_context(surface)).run_id


async def _statuses(client: httpx2.AsyncClient, run_ids: list[str]) -> list[str]:
    return [(await client.get(f"/runs/{run_id}")).json()["status"] for run_id in run_ids]


async def _begun(client: httpx2.AsyncClient, run_ids: list[str]) -> str:
    """The run that is under way, once there is one, which is never more than one."""
    async with asyncio.timeout(30):
        while True:
            counted = Counter(dict(zip(run_ids, await _statuses(client, run_ids), strict=True)).values())
            assert counted["running"] <= 1
            for run_id, status in zip(run_ids, await _statuses(client, run_ids), strict=True):
                if status == "running":
                    return run_id
            await asyncio.sleep(0.005)


async def test_turns_started_in_two_processes_run_one_at_a_time_in_the_order_of_their_acceptance(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, name: str
) -> None:
    async with AsyncExitStack() as stack:
        run_ids = [await _started(stack, (here, there)[number % 2], f"Turn {number}", name) for number in range(STARTS)]
        for number, run_id in enumerate(run_ids):
            assert await _begun(there, run_ids) == run_id
            told = ["completed"] * number + ["running"] + ["queued"] * (STARTS - number - 1)
            assert await _statuses(here, run_ids) == await _statuses(there, run_ids) == told
            await inject((there, here)[number % 2], run_id, "end")
            assert (await ended(here, run_id))["status"] == "completed"
    said = [text for role, text in await spoken(there, name) if text.startswith("Turn")]
    assert said == [f"Turn {number}" for number in range(STARTS)]


async def test_of_turns_started_at_once_in_two_processes_one_runs_and_the_others_queue(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, name: str
) -> None:
    async with AsyncExitStack() as stack:
        starts = (_started(stack, (here, there)[number % 2], f"Turn {number}", name) for number in range(STARTS))
        run_ids = list(await asyncio.gather(*starts))
        assert sorted(await _statuses(there, run_ids)) == ["queued"] * (STARTS - 1) + ["running"]
        order = []
        for _ in range(STARTS):
            run_id = await _begun(there, run_ids)
            order.append(run_id)
            await inject(there, run_id, "end")
            assert (await ended(here, run_id))["status"] == "completed"
    runs = [(await there.get(f"/runs/{run_id}")).json() for run_id in order]
    for before, after in pairwise(runs):
        assert before["ended_at"] <= after["started_at"]
    said = [text for role, text in await spoken(there, name) if text.startswith("Turn")]
    assert said == [run["input"][0]["content"] for run in runs]


async def test_concurrent_appenders_in_two_processes_lose_nothing_and_leave_no_gap(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient, name: str
) -> None:
    assert (await here.post("/sessions", json={"id": name})).status_code == 201

    async def append(number: int) -> dict[int, str]:
        client, placed = (here, there)[number % 2], {}
        for turn in range(APPENDS):
            text = f"{number} says {turn}"
            answer = await client.post(f"/sessions/{name}/messages", json={"role": "user", "content": text})
            assert answer.status_code == 201, answer.text
            placed[position_of(answer.json())] = text
        assert list(placed) == sorted(placed), "one after the other"
        return placed

    placed: dict[int, str] = {}
    for one in await asyncio.gather(*(append(number) for number in range(APPENDERS))):
        placed.update(one)
    session = (await there.get(f"/sessions/{name}")).json()
    stored = {message["position"]: message["content"] for message in session["messages"]}
    assert stored == placed
    assert sorted(stored) == list(range(1, APPENDERS * APPENDS + 1))
    assert session["message_count"] == APPENDERS * APPENDS


def position_of(answer: Any) -> int:
    position = answer["position"] if "position" in answer else answer["messages"][0]["position"]
    assert isinstance(position, int)
    return position


async def test_process_that_has_just_come_hears_of_every_event_at_once(
    replicas: Replicas, here: httpx2.AsyncClient, there: httpx2.AsyncClient, name: str
) -> None:
    if not replicas.are_many:
        pytest.skip("one process serves SQLite")
    async with AsyncExitStack() as stack:
        run_id = await _started(stack, here, name, name)
        with contextlib.suppress(httpx2.TransportError):
            async with AsyncExitStack() as lost:
                await _started(lost, there, name, f"{name} lost")
                await asyncio.to_thread(replicas.other.kill)
        await asyncio.to_thread(replicas.one.wait_for_log, r"(of a worker that has died)")
        await asyncio.to_thread(replicas.other.start)
        watching = await stack.enter_async_context(follow(there, run_id))
        await watching.until("two ")
        began = time.monotonic()
        for number in range(10):
            await inject(here, run_id, f"{number} ")
            assert await watching.until(" ") == f"{number} "
        assert time.monotonic() - began < within(2, 6), "it looks by itself only every second"
        await inject(here, run_id, "end")
