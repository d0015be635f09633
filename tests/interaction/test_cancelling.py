"""Cancelling, from whichever process: it reaches the agent at once, what was said is kept, and nothing follows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import uuid4

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support.openai_upstream import Reply, Upstream, running_upstream
from tests.support.replicas import STORES, Replicas, client_of, ended, running_replicas, spoken
from tests.support.sizes import within
from tests.support.surfaces import native_reading

AGENTS = '''
import asyncio
from pathlib import Path
from innkeeper import Agent, get_context, register_agent

def note(line):
    with Path("notes").open("a") as file:
        file.write(f"{get_context().run_id} {line}\\n")

async def for_ever():
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        note("was cancelled")
        raise

async def waits(messages):
    yield "So far."
    await for_ever()

async def dwell() -> str:
    """Never returns."""
    await for_ever()

async def stubborn(messages):
    yield "So far."
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        note("was cancelled")
    while not Path("haunt").exists():
        await asyncio.sleep(0.01)
    try:
        yield "A ghost."
    finally:
        note("spoke")

async def echo(messages):
    return " | ".join(str(message["content"]) for message in messages)

register_agent("echo", echo)
register_agent("function", waits)
register_agent("stubborn", stubborn)
for name in ("model", "tool"):
    register_agent(name, Agent(name, model="openai:gpt-4o", tools=[dwell]))
'''
SCRIPTS = {
    "function": Reply(),
    "model": Reply("So far.", hangs=True),
    "tool": Reply("So far.", calls=(("dwell", {}),)),
}
LAST = {"function": "text", "model": "text", "tool": "tool_call"}
PROMISED_SECONDS = within(1.0, 8.0)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with running_upstream() as running:
        yield running


@pytest.fixture(scope="module", params=STORES)
def replicas(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[Replicas]:
    env = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": upstream.url}
    with running_replicas(request.param, tmp_path_factory.mktemp("inn"), request, AGENTS, env) as running:
        yield running
        running.assert_nothing_was_raised()


@dataclass
class House:
    """The replicas with a client of each of two, in a test that has sessions of its own."""

    replicas: Replicas
    here: httpx2.AsyncClient
    there: httpx2.AsyncClient
    session_id: str

    def body(self, agent: str, text: str = "Go!") -> dict[str, str]:
        return {"agent_name": agent, "input": text, "session_id": self.session_id}

    async def noted(self, run_id: str, what: str) -> None:
        """Return when the agent has noted it."""
        notes = self.replicas.one.folder / "notes"
        async with asyncio.timeout(30):
            while not (notes.exists() and f"{run_id} {what}\n" in notes.read_text()):
                await asyncio.sleep(0.005)


@pytest.fixture
async def house(replicas: Replicas) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(client_of(one)) for one in (replicas.one, replicas.other)]
        yield House(replicas, here, there, f"s-{uuid4().hex}")


async def reached(client: httpx2.AsyncClient, run_id: str, kind: str) -> None:
    """Return when the run's log, read elsewhere, has an event of that kind."""
    async with client.stream("GET", f"/runs/{run_id}/events") as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["type"] == kind:
                return
    raise AssertionError(f"run {run_id} has no {kind}")


async def stops_the_agent(
    house: House, upstream: Upstream, kind: str, run_id: str, stop: Callable[[], Awaitable[None]]
) -> None:
    """Cancelling reaches the code that waits, or the model's connection, within a second."""
    began = time.monotonic()
    await stop()
    if kind == "model":
        assert await asyncio.to_thread(upstream.left.wait, 30)
    else:
        await house.noted(run_id, "was cancelled")
    seconds = time.monotonic() - began
    print(f"{kind}: cancelled after {seconds * 1000:.0f} ms")
    assert seconds <= PROMISED_SECONDS


async def is_cancelled_for_good(house: House, run_id: str) -> None:
    """What was said is kept, everywhere, and the session goes on without a late reply."""
    run = await ended(house.there, run_id)
    assert (run["status"], run["output"], run["error"]) == ("cancelled", "So far.", None)
    log = (await house.here.get(f"/runs/{run_id}/events")).content
    following = (await house.there.post("/chat", json=house.body("echo", "And?"))).json()
    assert following["output"].startswith("Go! | So far. | ")
    texts = [text for _, text in await spoken(house.here, house.session_id)]
    assert texts[:2] == ["Go!", "So far."]
    assert texts[-2:] == ["And?", following["output"]]
    for client in (house.here, house.there):
        assert (await client.get(f"/runs/{run_id}/events")).content == log


@pytest.mark.parametrize("kind", SCRIPTS)
async def test_cancel_sent_to_another_process_reaches_the_agent_within_a_second(
    house: House, upstream: Upstream, kind: str
) -> None:
    upstream.forget()
    upstream.script([SCRIPTS[kind]])
    async with house.here.stream("POST", "/chat/stream", json=house.body(kind)) as answer:
        reading = native_reading(answer)
        await reached(house.there, reading.run_id, LAST[kind])

        async def stop() -> None:
            assert (await house.there.post(f"/runs/{reading.run_id}/cancel")).status_code == 202

        await stops_the_agent(house, upstream, kind, reading.run_id, stop)
        await reading.rest()
        assert (reading.ending["type"], reading.ending["status"]) == ("done", "cancelled")
    await is_cancelled_for_good(house, reading.run_id)


@pytest.mark.parametrize("kind", SCRIPTS)
async def test_cancel_frame_reaches_the_agent_within_a_second(house: House, upstream: Upstream, kind: str) -> None:
    upstream.forget()
    upstream.script([SCRIPTS[kind]])
    async with connect(f"{house.replicas.one.url.replace('http', 'ws', 1)}/ws/chat") as socket:
        await socket.send(json.dumps(house.body(kind)))
        run_id = json.loads(await socket.recv())["run_id"]
        await reached(house.there, run_id, LAST[kind])
        await stops_the_agent(house, upstream, kind, run_id, lambda: socket.send('{"type": "cancel"}'))
        assert (await until_done(socket))["status"] == "cancelled"
    await is_cancelled_for_good(house, run_id)


async def until_done(socket: ClientConnection) -> dict[str, str]:
    async with asyncio.timeout(30):
        while (event := json.loads(await socket.recv()))["type"] != "done":
            pass
    found: dict[str, str] = event
    return found


async def test_cancel_frame_sent_right_after_its_turn_ends_that_turn(house: House) -> None:
    async with connect(f"{house.replicas.one.url.replace('http', 'ws', 1)}/ws/chat") as socket:
        for _ in range(3):
            await socket.send(json.dumps(house.body("function")))
            await socket.send('{"type": "cancel"}')
            assert (await until_done(socket))["status"] == "cancelled"


async def test_background_run_is_cancelled_from_another_process_wherever_it_is(house: House) -> None:
    accepted = (await house.here.post("/chat", json={**house.body("function"), "background": True})).json()
    run_id = accepted["run_id"]
    await reached(house.there, run_id, "text")
    assert (await house.there.post(f"/runs/{run_id}/cancel")).status_code == 202
    await house.noted(run_id, "was cancelled")
    await is_cancelled_for_good(house, run_id)


async def test_queued_turn_is_cancelled_from_another_process_and_never_begins(house: House) -> None:
    async with house.here.stream("POST", "/chat/stream", json=house.body("function")) as first:
        running = native_reading(first)
        await running.until("So far.")
        async with house.here.stream("POST", "/chat/stream", json=house.body("function", "Later!")) as second:
            waiting = native_reading(second)
            assert (await house.there.post(f"/runs/{waiting.run_id}/cancel")).status_code == 202
            assert await waiting.rest() == ""
            assert waiting.ending["status"] == "cancelled"
        assert (await house.there.get(f"/runs/{running.run_id}")).json()["status"] == "running"
        assert (await house.there.post(f"/runs/{running.run_id}/cancel")).status_code == 202
    await is_cancelled_for_good(house, running.run_id)


async def test_agent_that_ignores_its_cancelling_never_speaks_again(house: House) -> None:
    async with house.here.stream("POST", "/chat/stream", json=house.body("stubborn")) as answer:
        reading = native_reading(answer)
        await reading.until("So far.")
        assert (await house.there.post(f"/runs/{reading.run_id}/cancel")).status_code == 202
        assert await reading.rest() == ""
    assert reading.ending["status"] == "cancelled"
    (house.replicas.one.folder / "haunt").touch()
    await house.noted(reading.run_id, "spoke")
    await is_cancelled_for_good(house, reading.run_id)


async def test_cancel_of_a_run_that_has_ended_changes_nothing(house: House) -> None:
    done = (await house.here.post("/chat", json=house.body("echo"))).json()
    before = (await house.here.get(f"/runs/{done['run_id']}")).json()
    answer = await house.there.post(f"/runs/{done['run_id']}/cancel")
    assert (answer.status_code, answer.json()) == (202, before)
