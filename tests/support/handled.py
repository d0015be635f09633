"""Handled: command and event handlers whose moments a test decides, on a server of its own, and clients of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from innkeeper import Command, Event, NamedCommand, NamedEvent, ServerBase, bus
from innkeeper.core.errors import Invalid

Json = dict[str, Any]


@dataclass
class Add(Command):
    """Adds numbers."""

    a: int
    b: int


@dataclass
class Ring(Event):
    """Says how often."""

    times: int = 1


@dataclass
class Journal:
    """What handlers of one app saw."""

    began: list[str] = field(default_factory=list)
    heard: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    gate: threading.Event = field(default_factory=threading.Event)
    was_cancelled: threading.Event = field(default_factory=threading.Event)


def handle(app: ServerBase) -> Journal:
    """Handlers for `Add`, `Wait`, `Sleep`, `Fail`, `Refuse`, `Chain`, `Deep`, `Big`, and for `Ring` and `Tolled`."""
    journal = Journal()

    @app.command(Add)
    async def add(command: Add) -> int:
        journal.calls["add"] += 1
        return command.a + command.b

    @app.command("Wait")
    async def wait(command: NamedCommand) -> str:
        """Ends when the test lets it."""
        name = str(command.parameters.get("name", ""))
        journal.began.append(name)
        try:
            while not journal.gate.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            journal.was_cancelled.set()
            raise
        return name

    @app.command("Sleep")
    def sleep(command: NamedCommand) -> str:
        """Blocks a thread."""
        time.sleep(command.seconds)
        return "slept"

    @app.command("Fail")
    async def fail(command: NamedCommand) -> None:
        raise RuntimeError("the secret is open-sesame")

    @app.command("Refuse")
    async def refuse(command: NamedCommand) -> None:
        raise Invalid("name: must not be Bob.", param="name")

    @app.command("Chain")
    async def chain(command: NamedCommand) -> int:
        """Runs another command, and publishes what came of it."""
        total = await bus.execute(Add(command.a, 1))
        await bus.publish(Ring(total))
        return int(total)

    @app.command("Deep")
    async def deep(command: NamedCommand) -> Any:
        return await bus.execute(NamedCommand("Deep"))

    @app.command("Big")
    async def big(command: NamedCommand) -> str:
        return "x" * (2 * 1024 * 1024)

    @app.event(Ring)
    async def first(event: Ring) -> None:
        journal.heard.append(("first", {"times": event.times, "sequence": event.sequence}))

    @app.event(Ring)
    def breaking(event: Ring) -> None:
        raise RuntimeError("the secret is open-sesame")

    @app.event("Ring")
    def last(event: NamedEvent) -> None:
        journal.heard.append(("last", {"times": event.data["times"], "sequence": event.sequence}))

    @app.event("Tolled")
    async def again(event: NamedEvent) -> None:
        """Publishes what it hears, for ever."""
        journal.calls["tolled"] += 1
        await bus.publish(NamedEvent("Tolled"))

    return journal


def ask(http: httpx2.Client, session: str, command_type: str, wait: float = 10, **fields: Any) -> httpx2.Response:
    body = {"command_type": command_type, **fields}
    return http.post(f"/api/sessions/{session}/commands", json=body, params={"wait": wait} if wait else None)


def read(http: httpx2.Client, session: str, command: Json, wait: float = 10) -> Json:
    answer = http.get(f"/api/sessions/{session}/commands/{command['command_id']}", params={"wait": wait})
    assert answer.status_code == 200
    told: Json = answer.json()
    return told


def log(http: httpx2.Client, session: str, event_type: str | None = None) -> list[Json]:
    wanted = {"limit": 200} | ({} if event_type is None else {"event_type": event_type})
    told: list[Json] = http.get(f"/api/sessions/{session}/events", params=wanted).json()["events"]
    return told


def eventually(told: Any, seconds: float = 30) -> None:
    """Return once `told()` holds."""
    deadline = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)
