"""Injections at any moment, through every door and process, while servers are killed: each arrives once, in order."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.support.inns import frames
from tests.support.openai_upstream import Reply, Request, Upstream, running_upstream
from tests.support.replicas import STORES, Replicas, client_of, running_replicas, spoken
from tests.support.sizes import IS_FULL, sized
from tests.support.steerings import Talk

AGENTS = '''
import asyncio, json
from innkeeper import Agent, get_context, register_agent

def wish(text):
    return json.loads(text.removeprefix("work "))

async def listens(messages):
    """Works in loops, and takes in what is said meanwhile."""
    context = get_context()
    todo = wish(messages[-1]["content"])
    for _ in range(todo["loops"]):
        has_heard = False
        async for message in context.injections():
            yield f"Heard: {message.content}. "
            has_heard = True
        if has_heard and todo.get("until_heard"):
            break
        await asyncio.sleep(todo["pace"])
    yield "closing"
    await asyncio.sleep(todo["last"])

async def look(pace: float) -> str:
    """Looks for a while."""
    await asyncio.sleep(pace)
    return "seen"

register_agent("listens", listens)
register_agent("works", Agent("works", model="openai:gpt-4o", tools=[look], max_steps=50))
'''
ROUNDS = sized(10, 2)
TALKS = sized(5, 4)
INJECTIONS = sized(20, 8)


class Workplace(Upstream):
    """A model that calls its tool as often as its turn says, and then is done."""

    def take(self, request: Request) -> Reply:
        self.requests.append(request)
        looked, has_heard, wish = 0, False, {"loops": 0, "pace": 0.0}
        for item in request.body["messages"]:
            text = said(item)
            if item["role"] == "user" and text.startswith("work "):
                looked, has_heard, wish = 0, False, json.loads(text.removeprefix("work "))
            elif item["role"] == "user":
                has_heard = True
            looked += item["role"] == "tool"
        if looked < wish["loops"] and not (has_heard and wish.get("until_heard")):
            return Reply(calls=(("look", {"pace": wish["pace"]}),))
        return Reply("I am closing")


def said(item: dict[str, Any]) -> str:
    content = item.get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with running_upstream(Workplace()) as running:
        yield running


@pytest.fixture(scope="module", params=STORES)
def replicas(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[Replicas]:
    env = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": upstream.url}
    with running_replicas(request.param, tmp_path_factory.mktemp("inn"), request, AGENTS, env) as running:
        yield running


async def play_round(replicas: Replicas, number: int, *, is_killed: bool) -> tuple[int, int]:
    """Several sessions at once, each with its talker and two who inject, until everything has been delivered.

    Returns how many injections were acknowledged, and how many of them within 5 ms of the end of a run.
    """
    chance = random.Random(number)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(server)) for server in replicas.servers]
        talks = [
            Talk(
                replicas,
                clients,
                f"talk-{number}-{at}",
                "works" if at % 2 else "listens",
                random.Random(f"{number} {at}"),
                is_socket=at % 4 >= 2,
            )
            for at in range(TALKS)
        ]
        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            for talk in talks:
                tasks.create_task(talk.hold(INJECTIONS))
            if is_killed:
                await asyncio.sleep(chance.uniform(0.2, 0.6))
                await replicas.replace(replicas.any(chance))
        for talk in talks:
            await talk.close()
            await talk.check()
        near = sum([await talk.near_ends() for talk in talks])
    return sum(len(talk.acknowledged) for talk in talks), near


@pytest.mark.timeout(600)
async def test_each_injection_arrives_once_in_order_also_when_servers_are_killed(replicas: Replicas) -> None:
    acknowledged, near = 0, 0
    for number in range(ROUNDS):
        told, at_an_end = await play_round(replicas, number, is_killed=number % 2 == 1)
        acknowledged, near = acknowledged + told, near + at_an_end
    print(f"{acknowledged} injections, {near} of them within 5 ms of the end of a run, {ROUNDS} rounds")
    assert acknowledged >= sized(500, 40)
    assert not IS_FULL or near >= 100
    replicas.assert_nothing_was_raised()


async def test_frame_without_a_name_is_for_the_turn_before_it_and_then_for_its_session(replicas: Replicas) -> None:
    wish = json.dumps({"loops": 40, "pace": 0.2, "last": 0, "until_heard": True})
    async with client_of(replicas.one) as client, connect(f"{replicas.one.url.replace('http', 'ws', 1)}/ws/chat") as ws:
        await ws.send(json.dumps({"agent_name": "works", "session_id": "named", "input": f"work {wish}"}))
        await ws.send(json.dumps({"type": "inject", "message": "at once"}))
        told = [json.loads(await ws.recv())]
        while told[-1]["type"] != "done":
            told.append(json.loads(await ws.recv()))
        (at_once,) = (event for event in told if event["type"] == "injected")
        assert at_once["run_id"] == told[-1]["run_id"]
        await ws.send(json.dumps({"type": "inject", "message": "too late"}))
        too_late = json.loads(await ws.recv())
        assert (too_late["type"], too_late["run_id"]) == ("injected", None)
        await client.post("/chat", json={"agent_name": "works", "input": "Elsewhere"})
        assert (await client.get(f"/injections/{too_late['injection_id']}")).json()["status"] == "deferred"
        following = (
            await client.post("/chat", json={"agent_name": "works", "session_id": "named", "input": "Next"})
        ).json()
        receipt = (await client.get(f"/injections/{too_late['injection_id']}")).json()
        assert (receipt["status"], receipt["run_id"], receipt["seq"]) == ("delivered", following["run_id"], 2)
        assert [text for role, text in await spoken(client, "named") if role == "user"][1:] == [
            "at once", "too late", "Next",
        ]  # fmt: skip


@pytest.mark.parametrize("agent", ["listens", "works"])
async def test_injection_reaches_the_run_in_another_process_and_is_in_its_log_where_it_was_taken(
    replicas: Replicas, agent: str
) -> None:
    wish = json.dumps({"loops": 40, "pace": 0.2, "last": 0, "until_heard": True})
    async with client_of(replicas.one) as here, client_of(replicas.other) as there:
        body = {"agent_name": agent, "session_id": f"across {agent}", "input": f"work {wish}"}
        async with here.stream("POST", "/chat/stream", json=body) as answer:
            run_id = answer.headers["x-run-id"]
            told = (await there.post("/inject", json={"message": "Hurry!", "session_id": f"across {agent}"})).json()
            assert told["run_id"] == run_id
            log = frames(await answer.aread())
        ((seq, event),) = ((frame.seq, frame.data) for frame in log if frame.data["type"] == "message_injected")
        assert (event["content"], event["injection_id"]) == ("Hurry!", told["injection_id"])
        receipt = (await there.get(f"/injections/{told['injection_id']}")).json()
        assert (receipt["status"], receipt["run_id"], receipt["seq"]) == ("delivered", run_id, seq)
