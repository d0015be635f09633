"""Crowds: many clients at once on one server, and whether what they were told is what is stored."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx2
import pytest

from tests.support.inns import Inn
from tests.support.sizes import sized
from tests.support.surfaces import SURFACES

CLIENTS, REQUESTS = 32, sized(50, 15)
ACTS = sized(600, 200)


@pytest.fixture
async def client(inn: Inn) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=CLIENTS * 2)
    async with httpx2.AsyncClient(base_url=inn.url, timeout=60, limits=limits) as made:
        yield made


async def idle(client: httpx2.AsyncClient) -> None:
    """Return when the server has nothing under way: it notes so behind its last answer."""
    async with asyncio.timeout(30):
        while (await client.get("/status")).json()["active_requests"]:
            await asyncio.sleep(0.02)


async def visit(client: httpx2.AsyncClient, number: int, session_id: str) -> list[str]:
    """One client's requests, on surfaces of its choice; returns what its session must hold."""
    choose = random.Random(number)
    spoken: list[str] = []
    for turn in range(REQUESTS):
        text = f"client {number} turn {turn}"
        kind = choose.choice([*SURFACES, "plain", "look", "append"])
        if kind == "look":
            assert (await client.get("/sessions", params={"limit": 5})).status_code == 200
            assert (await client.get("/runs", params={"session_id": session_id})).status_code == 200
        elif kind == "append":
            answer = await client.post(f"/sessions/{session_id}/messages", json={"role": "user", "content": text})
            assert answer.status_code == (201 if spoken else 404)
            spoken += [text] if spoken else []
        elif kind == "plain":
            answer = await client.post("/chat", json={"input": text, "session_id": session_id})
            assert answer.json()["output"] == f"You said: {text} ", answer.text
            spoken += [text, f"You said: {text} "]
        else:
            async with SURFACES[kind](client, "echo", text, session_id) as reading:
                assert await reading.rest() == f"You said: {text} "
            spoken += [text, f"You said: {text} "]
    return spoken


async def test_sessions_of_many_clients_hold_what_each_was_told(inn: Inn, client: httpx2.AsyncClient) -> None:
    names = [f"crowd-{uuid4().hex}" for _ in range(CLIENTS)]
    expected = await asyncio.gather(*(visit(client, number, name) for number, name in enumerate(names)))
    for name, spoken in zip(names, expected, strict=True):
        session = (await client.get(f"/sessions/{name}")).json()
        assert [message["content"] for message in session["messages"]] == spoken
        assert [message["position"] for message in session["messages"]] == list(range(1, len(spoken) + 1))
    await idle(client)


async def test_concurrent_turns_of_one_session_are_one_conversation(inn: Inn, client: httpx2.AsyncClient) -> None:
    inn.seen.clear()

    async def take(number: int) -> str:
        surface = list(SURFACES)[number % len(SURFACES)]
        async with SURFACES[surface](client, "echo", f"turn {number}", "one-for-all") as reading:
            return await reading.rest()

    told = await asyncio.gather(*(take(number) for number in range(8)))
    assert told == [f"You said: turn {number} " for number in range(8)]
    session = (await client.get("/sessions/one-for-all")).json()
    spoken = [message["content"] for message in session["messages"]]
    questions, answers = spoken[::2], spoken[1::2]
    assert answers == [f"You said: {question} " for question in questions]
    assert sorted(questions) == [f"turn {number}" for number in range(8)]
    for length, heard in enumerate(inn.seen):
        assert [message["content"] for message in heard] == spoken[: 2 * length + 1]


async def test_first_turns_of_one_new_session_make_it_once(inn: Inn, client: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(client.post("/chat", json={"input": f"turn {number}", "session_id": "made-once"}) for number in range(10))
    )
    assert {answer.status_code for answer in answers} == {200}
    found = (await client.get("/sessions", params={"limit": 200})).json()["sessions"]
    assert [session["message_count"] for session in found if session["id"] == "made-once"] == [20]


async def test_session_that_is_deleted_under_its_crowd_leaves_no_turn_without_an_end(
    inn: Inn, client: httpx2.AsyncClient
) -> None:
    async def act(number: int) -> int:
        choose = random.Random(number)
        body = {"input": "Hello", "session_id": "contested"}
        if choose.random() < 0.1:
            return (await client.delete("/sessions/contested")).status_code
        if choose.random() < 0.3:
            body["when_busy"] = "reject"
        return (await client.post(choose.choice(["/chat", "/chat/stream"]), json=body, timeout=20)).status_code

    for start in range(0, ACTS, 10):
        statuses = await asyncio.gather(*(act(start + offset) for offset in range(10)))
        assert set(statuses) <= {200, 204, 404, 409, 429}, "nobody waits in vain, nothing breaks"
    await idle(client)
    for status in ("queued", "running"):
        assert (await client.get("/runs", params={"status": status})).json()["runs"] == []
