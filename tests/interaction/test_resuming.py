"""Streams that are cut again and again, in every way: what arrives in the end is the uncut stream, byte for byte."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator

import pytest

from tests.support.cut_streams import CUTS, Reader
from tests.support.replicas import STORES, Replicas, client_of, running_replicas
from tests.support.sizes import percentile, sized, within

AGENTS = '''
import asyncio, json, random, time
from innkeeper import register_agent

async def recites(messages):
    """As many texts as it is told, each with the moment at which it is said; it waits where it likes."""
    wish = json.loads(messages[-1]["content"])
    chance = random.Random(wish["seed"])
    for number in range(wish["texts"]):
        yield f"{number} {'x' * chance.choice((0, 0, 0, wish['size']))} {time.monotonic():.4f}"
        if chance.random() < 0.8:
            await asyncio.sleep(wish["pace"] * chance.uniform(0, 2.5))

register_agent("recites", recites)
'''
STREAMS = sized(50, 8)
PACE = STREAMS / sized(400, 1200)
EVENTS = 200
MAX_CUTS = 10
PROMISED_SECONDS = within(0.25, 2.5)
PERCENTILE = sized(99, 90)  # of a few streams on a busy machine, the slowest says more of the machine


@pytest.fixture(scope="module", params=STORES)
def replicas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    env = {"INNKEEPER_BACKGROUND_RUNS": str(STREAMS)}
    with running_replicas(request.param, tmp_path_factory.mktemp("inn"), request, AGENTS, env) as running:
        yield running


class Listener:
    """A client that starts a run, and whose stream of it is cut up to ten times."""

    def __init__(self, replicas: Replicas, number: int, *, background: bool) -> None:
        self._replicas = replicas
        self._chance = random.Random(number)
        self._background = background
        self.home = self._chance.choice(replicas.servers)
        self.reader = Reader("")
        self.cuts = 0

    async def start(self) -> None:
        wish = {"texts": EVENTS - 2, "pace": PACE, "size": 4000, "seed": self._chance.random()}
        body = {"input": json.dumps(wish), "background": self._background}
        async with client_of(self.home) as client:
            if self._background:
                self.reader.run_id = (await client.post("/chat", json=body)).json()["run_id"]
                return
            async with client.stream("POST", "/chat/stream", json=body) as answer:
                self.reader.run_id = answer.headers["x-run-id"]

    async def listen(self) -> None:
        """Go on reading on whichever process, until the stream has ended."""
        reader, chance = self.reader, self._chance
        await asyncio.sleep(EVENTS * PACE * chance.uniform(0, 0.3))
        while not reader.is_done:
            events = None if self.cuts == MAX_CUTS else chance.randint(1, 2 * EVENTS // MAX_CUTS)
            server, before = self._replicas.any(chance), reader.connections
            try:
                await reader.read(server.url, by_header=chance.random() < 0.5, events=events, cut=chance.choice(CUTS))
            except OSError:
                if reader.connections == before:
                    await asyncio.sleep(0.02)  # nobody is there: the process has been killed
                    continue
            self.cuts += not reader.is_done

    async def listen_undisturbed(self) -> bytes:
        """The uncut stream, on another process than that which executes the run."""
        reader = Reader(self.reader.run_id)
        await reader.read(self._replicas.others_than(self.home)[0].url, by_header=True)
        return bytes(reader.received)

    async def replays(self) -> list[bytes]:
        replays = []
        for server in self._replicas.servers:
            async with client_of(server) as client:
                replays.append((await client.get(f"/runs/{self.reader.run_id}/events")).content)
        return replays


async def started(replicas: Replicas, *, background: bool | None = None) -> list[Listener]:
    made = [
        Listener(replicas, number, background=number % 2 == 1 if background is None else background)
        for number in range(STREAMS)
    ]
    for listener in made:
        await listener.start()
    return made


async def check(listeners: list[Listener]) -> None:
    """Every concatenation is the log, on every process."""
    for listener in listeners:
        for replay in await listener.replays():
            assert bytes(listener.reader.received) == replay, listener.reader.run_id
    cuts = sum(listener.cuts for listener in listeners)
    assert cuts > 2 * len(listeners)


def report(name: str, listeners: list[Listener]) -> float:
    """What a resumed stream took to bring what was there, all but the slowest."""
    waits = [wait for listener in listeners for wait in listener.reader.waits]
    delays = [delay for listener in listeners for delay in listener.reader.delays]
    cuts = sum(listener.cuts for listener in listeners)
    print(
        f"{name}: {len(listeners)} streams, {cuts} cuts; from the request to the first event p50"
        f" {percentile(waits, 50) * 1000:.0f} ms, p99 {percentile(waits, 99) * 1000:.0f} ms; of events that were"
        f" there p50 {percentile(delays, 50) * 1000:.0f} ms, p99 {percentile(delays, 99) * 1000:.0f} ms"
    )
    return percentile(delays, PERCENTILE)


async def test_streams_cut_anywhere_resume_on_any_process_byte_for_byte_and_at_once(replicas: Replicas) -> None:
    listeners = await started(replicas)
    _, uncut = await asyncio.gather(
        asyncio.gather(*(listener.listen() for listener in listeners)),
        asyncio.gather(*(listener.listen_undisturbed() for listener in listeners)),
    )
    await check(listeners)
    for listener, whole in zip(listeners, uncut, strict=True):
        assert bytes(listener.reader.received) == whole
        assert listener.reader.cursor == EVENTS
    assert report("cut", listeners) <= PROMISED_SECONDS
    replicas.assert_nothing_was_raised()


async def test_streams_whose_process_is_killed_resume_elsewhere_byte_for_byte(replicas: Replicas) -> None:
    chance = random.Random(7)
    listeners = await started(replicas)
    listening = asyncio.gather(*(listener.listen() for listener in listeners))
    for _ in range(sized(3, 1)):
        await asyncio.sleep(EVENTS * PACE * chance.uniform(0.1, 0.4))
        await replicas.replace(replicas.any(chance))
    await listening
    await check(listeners)
    assert report("killed", listeners) <= PROMISED_SECONDS
    async with client_of(replicas.one) as client:
        for listener in listeners:
            run = (await client.get(f"/runs/{listener.reader.run_id}")).json()
            assert run["status"] == "completed" or (run["status"] == "interrupted" and not run["background"]), run
            assert run["attempt"] > 1 or run["status"] == "interrupted" or listener.reader.cursor == EVENTS
    replicas.assert_nothing_was_raised()
