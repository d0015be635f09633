"""Commands and events under SIGKILL: what was acknowledged is there, each ends once, and the log has no gap."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from tests.kill.conftest import Place
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import sized

Json = dict[str, Any]

HANDLERS = """
import asyncio
from innkeeper import NamedEvent, bus, register_agent

@bus.command("Fragile")
async def fragile(command):
    await asyncio.sleep(command.seconds)
    return command.name

@bus.command("Sturdy", idempotent=True)
async def sturdy(command):
    await bus.publish(NamedEvent("Worked", {"name": command.name}))
    await asyncio.sleep(command.seconds)
    return command.name

@bus.event("Said", idempotent=True)
async def heard(event):
    await bus.publish(NamedEvent("Heard", {"of": event.data["name"]}))

async def echo(messages):
    return messages[-1]["content"]

register_agent("echo", echo)
"""
ROUNDS = sized(4, 2)
CLIENTS = 6
ENOUGH = 25
"""Commands, and events, that are acknowledged before each kill."""
SESSION = "under-fire"


class Client:
    """Sends commands and events until the server is gone, and remembers what was acknowledged."""

    def __init__(self, url: str, number: int) -> None:
        self._url = url
        self._number = number
        self.commands: dict[str, tuple[str, str]] = {}
        self.events: dict[str, tuple[int, str]] = {}

    def run(self, until: threading.Event) -> None:
        path, chance = f"/api/sessions/{SESSION}", random.Random(self._number)
        with httpx2.Client(base_url=self._url, timeout=20) as http:
            for turn in range(10_000):
                name = f"{self._number}/{turn}"
                try:
                    if chance.random() < 0.5:
                        kind, seconds = chance.choice(("Fragile", "Sturdy")), chance.choice((0, 0.01, 0.3))
                        body = {"command_type": kind, "parameters": {"name": name, "seconds": seconds}}
                        answer = http.post(f"{path}/commands", json=body)
                        self.commands[answer.json()["command_id"]] = kind, name
                    else:
                        answer = http.post(f"{path}/events", json={"event_type": "Said", "data": {"name": name}})
                        told = answer.json()
                        self.events[told["event_id"]] = told["sequence"], name
                except (httpx2.TransportError, KeyError):
                    if until.is_set():
                        return
                    raise
                if until.is_set():
                    return


def _under_fire(server: ServerProcess, number: int) -> list[Client]:
    """Clients act until enough has been acknowledged; then the server is killed in the middle of what they do."""
    clients, until = [Client(server.url, number * 100 + index) for index in range(CLIENTS)], threading.Event()
    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client.run, until) for client in clients]
        try:
            while min(sum(len(one.commands) for one in clients), sum(len(one.events) for one in clients)) < ENOUGH:
                assert time.monotonic() < deadline and not any(one.done() for one in running)
                time.sleep(0.01)
        finally:
            until.set()
        server.kill()
        for one in running:
            one.result(30)
    return clients


def _all_events(http: httpx2.Client) -> list[Json]:
    events: list[Json] = []
    while True:
        after = events[-1]["sequence"] if events else 0
        page = http.get(f"/api/sessions/{SESSION}/events", params={"after": after, "limit": 200}).json()["events"]
        if not page:
            return events
        events += page


def _settled(http: httpx2.Client, commands: dict[str, tuple[str, str]]) -> dict[str, Json]:
    told = {}
    for command_id in commands:
        answer = http.get(f"/api/sessions/{SESSION}/commands/{command_id}", params={"wait": 30})
        assert answer.status_code == 200, f"an acknowledged command is lost: {answer.text}"
        told[command_id] = answer.json()
    return told


def test_no_acknowledged_command_or_event_is_lost_or_doubled(innkeeper_server: ServerFactory, place: Place) -> None:
    innkeeper_server.write("handlers.py", HANDLERS)
    server = innkeeper_server("handlers.py", env={**place.env, "INNKEEPER_DRAIN_SECONDS": "1"})
    commands: dict[str, tuple[str, str]] = {}
    events: dict[str, tuple[int, str]] = {}
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        http.post("/api/sessions", json={"session_id": SESSION}).raise_for_status()
    for number in range(ROUNDS):
        for client in _under_fire(server, number):
            commands |= client.commands
            events |= client.events
        server.restart()
    with httpx2.Client(base_url=server.url, timeout=60) as http:
        ended = _settled(http, commands)
        _expect_ends(commands, ended)
        _expect_reactions(http, events)
        log = _all_events(http)
    assert [event["sequence"] for event in log] == list(range(1, len(log) + 1))
    stored = {event["event_id"]: (event["sequence"], event["data"].get("name")) for event in log}
    assert all(stored[event_id] == told for event_id, told in events.items())
    _expect_one_each(log)
    assert min(len(commands), len(events)) >= ROUNDS * ENOUGH


def _expect_ends(commands: dict[str, tuple[str, str]], ended: dict[str, Json]) -> None:
    statuses = Counter((commands[name][0], told["status"]) for name, told in ended.items())
    assert {pair for pair in statuses if pair[0] == "Sturdy"} == {("Sturdy", "completed")}
    assert {pair for pair in statuses if pair[0] == "Fragile"} <= {("Fragile", "completed"), ("Fragile", "failed")}
    for command_id, told in ended.items():
        if told["status"] == "completed":
            assert told["result"] == commands[command_id][1]
        else:
            assert told["error"]["details"] == {"reason": "interrupted"}


def _expect_reactions(http: httpx2.Client, events: dict[str, tuple[int, str]]) -> None:
    """Each event was heard, at least once, because its handler is idempotent."""
    said, deadline = {name for _, name in events.values()}, time.monotonic() + 60
    while True:
        heard = {event["data"]["of"] for event in _all_events(http) if event["event_type"] == "Heard"}
        if said <= heard:
            return
        assert time.monotonic() < deadline, f"{len(said - heard)} events were never heard"
        time.sleep(0.2)


def _expect_one_each(log: list[Json]) -> None:
    accepted = Counter(event["data"]["command_id"] for event in log if event["event_type"] == "command_accepted")
    ended = Counter(event["data"]["command_id"] for event in log if event["event_type"] == "command_ended")
    assert set(accepted.values()) <= {1}
    assert set(ended.values()) <= {1}
    assert accepted.keys() == ended.keys()


def test_who_waits_is_answered_when_the_server_stops_and_leaves_the_command_to_others(
    innkeeper_server: ServerFactory, place: Place
) -> None:
    innkeeper_server.write("handlers.py", HANDLERS)
    server = innkeeper_server("handlers.py", env={**place.env, "INNKEEPER_DRAIN_SECONDS": "0.5"})
    path, body = f"/api/sessions/{SESSION}/commands", {"name": "n", "seconds": 30}
    with httpx2.Client(base_url=server.url, timeout=40) as http, ThreadPoolExecutor(1) as pool:
        http.post("/api/sessions", json={"session_id": SESSION}).raise_for_status()
        request = {"command_type": "Sturdy", "parameters": body, "metadata": {"timeout": 60}}
        waiting = pool.submit(http.post, path, json=request, params={"wait": 30})
        with httpx2.Client(base_url=server.url) as other:
            while not other.get(f"/api/sessions/{SESSION}/events").json()["total"]:
                time.sleep(0.01)
        server.terminate()
        answer = waiting.result(40)
    assert (answer.status_code, answer.json()["status"]) == (201, "queued")
