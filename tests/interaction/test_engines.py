"""Engines where two processes serve one store: made in one, executed in the other, and seen from both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from tests.support.replicas import STORES, Replicas, client_of, running_replicas, spoken

Json = dict[str, Any]

AGENTS = '''
import asyncio
from innkeeper import get_context, register_agent

async def listens(messages):
    """Says what is injected, until that is "end" or "fail"."""
    while True:
        async for message in get_context().injections():
            if message.content == "end":
                return
            if message.content == "fail":
                raise RuntimeError("as it was told")
            yield message.content
        await asyncio.sleep(0.005)

register_agent("listens", listens)
'''


@pytest.fixture(scope="module", params=STORES)
def replicas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with running_replicas(request.param, tmp_path_factory.mktemp("inn"), request, AGENTS) as running:
        yield running


@pytest.fixture
async def here(replicas: Replicas) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(replicas.one) as client:
        yield client


@pytest.fixture
async def there(replicas: Replicas) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(replicas.other) as client:
        yield client


async def made(client: httpx2.AsyncClient, engine_type: str = "DummyEngine") -> str:
    answer = await client.post("/api/engines", json={"engine_type": engine_type})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["engine_id"])


async def execute(client: httpx2.AsyncClient, engine_id: str, prompt: str) -> httpx2.Response:
    return await client.post(f"/api/engines/{engine_id}/execute", json={"prompt": prompt})


async def seen(client: httpx2.AsyncClient, engine_id: str) -> Json:
    answer = await client.get(f"/api/engines/{engine_id}")
    assert answer.status_code == 200, answer.text
    engine: Json = answer.json()
    return engine


async def test_its_status_is_seen_wherever_it_is_executed(here: httpx2.AsyncClient, there: httpx2.AsyncClient) -> None:
    engine_id = await made(here, "listens")
    assert (await seen(there, engine_id))["status"] == "initialized"
    for last_word, status, code in (("end", "idle", 200), ("fail", "failed", 500)):
        before = (await seen(there, engine_id))["last_run_id"]
        execution = asyncio.create_task(execute(here, engine_id, "Listen"))
        while (engine := await seen(there, engine_id))["last_run_id"] == before:
            await asyncio.sleep(0.01)
        assert engine["status"] == "active"
        listed = (await there.get("/api/engines", params={"status": "active"})).json()["engines"]
        assert [one["engine_id"] for one in listed] == [engine_id]
        await there.post("/inject", json={"message": last_word, "run_id": engine["last_run_id"]})
        assert (await execution).status_code == code
        assert (await seen(there, engine_id))["status"] == status


async def test_executions_in_both_take_turns_and_all_are_answered(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
) -> None:
    engine_id = await made(here)
    answers = await asyncio.gather(
        *(execute(client, engine_id, f"{number}") for number, client in enumerate((here, there) * 4))
    )
    assert [answer.json()["result"] for answer in answers] == [f"Dummy response to: {number}" for number in range(8)]
    engine = await seen(here, engine_id)
    assert engine["status"] == "idle"
    said = await spoken(there, engine["session_id"])
    assert [role for role, _ in said] == ["user", "assistant"] * 8
    assert all(
        answer == f"Dummy response to: {question}"
        for (_, question), (_, answer) in zip(said[::2], said[1::2], strict=True)
    )


async def test_the_dummy_survives_its_process_in_the_background(replicas: Replicas, here: httpx2.AsyncClient) -> None:
    async with client_of(replicas.one) as client:
        engine_id = await made(client, "listens")
        session_id = (await seen(client, engine_id))["session_id"]
        execution = asyncio.create_task(execute(client, engine_id, "Listen"))
        while (await seen(client, engine_id))["status"] != "active":
            await asyncio.sleep(0.01)
        body = {"agent_name": "DummyEngine", "input": "After", "session_id": session_id, "background": True}
        queued = (await client.post("/chat", json=body)).json()
        await replicas.replace(replicas.one)
        with pytest.raises(httpx2.HTTPError):
            await execution
    async with client_of(replicas.one) as client:
        run = (await client.get(f"/runs/{queued['run_id']}", params={"wait": 60})).json()
        assert run["output"] == "Dummy response to: After"
        assert (await seen(client, engine_id))["status"] == "idle", "its own run was interrupted"
        assert (await execute(client, await made(client), "Hi")).json()["result"] == "Dummy response to: Hi"


async def test_an_engine_that_is_removed_is_gone_everywhere(
    here: httpx2.AsyncClient, there: httpx2.AsyncClient
) -> None:
    engine_id = await made(here)
    assert (await there.delete(f"/api/engines/{engine_id}")).status_code == 204
    for client in (here, there):
        assert (await execute(client, engine_id, "Hello")).status_code == 404
