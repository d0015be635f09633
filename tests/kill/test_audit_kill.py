"""The audit log under SIGKILL: one entry for each action that was acknowledged, in a chain that holds."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest

from innkeeper.config import Settings, load_settings
from innkeeper.core.audit import AuditEntry
from innkeeper.services.audit_chain import Verdict, verified
from innkeeper.wiring import open_store
from tests.kill.conftest import Place
from tests.support.inns import Json
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import IS_FULL
from tests.support.tokens import a_token

AGENT = """
from innkeeper import register_agent

register_agent("echo", lambda messages: "Hi")
"""
KILLS, ACTIONS = (20, 500) if IS_FULL else (3, 60)
CLIENTS = 4
ADMINS = "/api/v1/platform/admins"
Acted = tuple[str, str]
"""An action and the id of what it was done to."""


@dataclass
class Ledger:
    """What servers have acknowledged to all clients."""

    acted: list[Acted] = field(default_factory=list)
    target: int = 0
    reached: threading.Event = field(default_factory=threading.Event)

    def acknowledge(self, action: str, resource_id: str) -> None:
        self.acted.append((action, resource_id))
        if len(self.acted) >= self.target:
            self.reached.set()


class Client:
    """An administrator who is in a hurry, until the server is gone."""

    def __init__(self, server: ServerProcess, token: str, name: str, ledger: Ledger) -> None:
        self._server = server
        self._token = token
        self._name = name
        self._ledger = ledger
        self._chance = random.Random(name)

    def run(self, until: threading.Event) -> None:
        with httpx2.Client(base_url=self._server.url, headers={"x-api-key": self._token}, timeout=20) as http:
            for turn in range(100_000):
                try:
                    self._act(http, f"{self._name}-{turn}")
                except httpx2.TransportError:
                    if until.is_set():
                        return
                    raise
                if until.is_set():
                    return

    def _act(self, http: httpx2.Client, name: str) -> None:
        match self._chance.choice(("admin", "token", "credits")):
            case "admin":
                email = f"{name}@example.org"
                self._done(http.post(ADMINS, json={"workos_id": name, "email": email}), "admin.add", email)
                self._done(http.delete(f"{ADMINS}/{email}"), "admin.remove", email)
            case "token":
                made = self._done(http.post("/tokens", json={"user": name}), "token.create").json()["id"]
                self._done(http.delete(f"/tokens/{made}"), "token.revoke", made)
            case "credits":
                body = {"organization": name, "balance": "5"}
                self._done(http.put("/credits", json=body), "credits.set", name)

    def _done(self, answer: httpx2.Response, action: str, resource_id: str | None = None) -> httpx2.Response:
        assert answer.is_success, answer.text
        self._ledger.acknowledge(action, resource_id or answer.json()["id"])
        return answer


def under_fire(server: ServerProcess, token: str, round: int, ledger: Ledger) -> None:
    """Clients act until enough has been acknowledged; then the server is killed in the middle of what they do."""
    until = threading.Event()
    ledger.reached.clear()
    clients = [Client(server, token, f"r{round}c{number}", ledger) for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client.run, until) for client in clients]
        assert ledger.reached.wait(60), [one.exception() for one in running if one.done()]
        until.set()
        server.kill()
        for one in running:
            one.result(30)


async def _read(settings: Settings) -> tuple[list[AuditEntry], Verdict]:
    store = open_store(settings)
    await store.open(serves=False)
    try:
        return [entry for entry, _ in await store.audit.chain(0, 100_000)], await verified(store.audit)
    finally:
        await store.close()


def by_hand(place: Place, *statements: str) -> None:
    if not place.env:
        with closing(sqlite3.connect(place.database, timeout=10)) as database, database:
            for statement in statements:
                database.execute(statement)
        return

    async def run() -> None:
        connection = await asyncpg.connect(place.database)
        try:
            await connection.execute(";".join(statements))
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
def test_each_action_that_was_acknowledged_has_one_entry_and_what_is_done_to_them_is_named(
    innkeeper_server: ServerFactory, place: Place, tmp_path: Path
) -> None:
    innkeeper_server.write("agent.py", AGENT)
    server = innkeeper_server("agent.py", env={**place.env, "RATE_LIMIT_USER": "off"})
    where: dict[str, Any] = {"database_url": place.database} if place.env else {"data_dir": tmp_path / "data"}
    settings = load_settings(where)
    token = a_token(settings, "root", "admin").text
    with httpx2.Client(base_url=server.url, headers={"x-api-key": token}) as http:
        http.post(ADMINS, json={"workos_id": "first", "email": "first@example.org"}).raise_for_status()
    ledger = Ledger()
    for round in range(KILLS):
        ledger.target = ACTIONS * (round + 1) // KILLS
        under_fire(server, token, round, ledger)
        server.restart()
    entries, verdict = asyncio.run(_read(settings))
    assert (verdict.broken, verdict.count) == (None, len(entries))
    expect_one_each(ledger.acted, entries)
    with httpx2.Client(base_url=server.url, headers={"x-api-key": token}) as http:
        expect_what_is_told(http.get(ADMINS).json(), entries)
    expect_found(place, settings, entries)


def expect_one_each(acted: Sequence[Acted], entries: Sequence[AuditEntry]) -> None:
    """What was not acknowledged, because the server was gone, may have been done all the same, once."""
    told = Counter((one.action, (one.resource_id or "").partition("/")[0]) for one in entries)
    assert set(told.values()) == {1}
    assert len(acted) >= ACTIONS
    assert {one for one in acted if told[one] != 1} == set()


def expect_what_is_told(listed: Json, entries: Sequence[AuditEntry]) -> None:
    """Nothing was done that is not told, and nothing is told that was not done."""
    emails = {one["email"] for one in listed["admins"]}
    told = Counter(one.resource_id for one in entries if one.action == "admin.add")
    told.subtract(one.resource_id for one in entries if one.action == "admin.remove")
    assert emails == {email for email, count in told.items() if count}


def expect_found(place: Place, settings: Settings, entries: Sequence[AuditEntry]) -> None:
    """A tail that is cut off, an entry that is deleted before it, and one that is edited before that are named."""
    last = len(entries)
    cases = [
        (f"DELETE FROM audit_entries WHERE number > {last - 3}", last - 2, None),
        ("DELETE FROM audit_entries WHERE number = 30", 30, None),
        ("UPDATE audit_entries SET owner = 'somebody' WHERE number = 20", 20, entries[19].id),
    ]
    for statement, number, entry_id in cases:
        by_hand(place, statement)
        _, verdict = asyncio.run(_read(settings))
        assert verdict.broken is not None
        assert (verdict.broken.number, verdict.broken.entry_id) == (number, entry_id)
