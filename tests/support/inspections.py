"""Inspections: whether a server that was killed still has what its clients were told, once and without gaps.

What is wrong is collected and not raised, so that it can be counted over many rounds.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx2

from tests.support.inns import Frame, Json, frames, said
from tests.support.writers import Injected, Ledger, Said

ItemT = TypeVar("ItemT")

_AT_ONCE = 8
_TERMINAL = {"completed", "interrupted", "failed", "cancelled"}


@dataclass
class Findings:
    """What is wrong."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def assert_none(self) -> None:
        found = [f"{kind}: {one}" for kind in ("lost", "doubled", "broken") for one in getattr(self, kind)]
        assert not found, "\n".join(found[:30])


class Inspector:
    """Looks at a server after each of its restarts. `begun` is where the agent notes what it begins."""

    def __init__(self, ledger: Ledger, begun: Path) -> None:
        self.findings = Findings()
        self.runs: dict[str, Json] = {}
        self._ledger = ledger
        self._begun = begun
        self._turns = 0
        self._injected: list[Injected] = []
        self._injections = 0
        self._appended = 0
        self._hinted: Counter[str] = Counter()
        self._places: dict[tuple[str, int], str] = {}

    async def inspect(self, client: httpx2.AsyncClient) -> float:
        """Look at what is new since the last inspection, once every run has ended; returns how long that took."""
        began = time.monotonic()
        fresh = await _ended_runs(client, self.runs)
        waited = time.monotonic() - began
        turns, self._turns = self._ledger.turns[self._turns :], len(self._ledger.turns)
        told = {turn.run_id: turn for turn in turns if turn.run_id}
        for run_id in told.keys() - fresh.keys():
            self.findings.lost.append(f"run {run_id} of {told[run_id].surface}")
        await each(fresh.values(), lambda run: self._inspect_log(client, run, told.get(run["id"])))
        self.runs |= fresh
        self._inspect_inputs(turns, fresh)
        self._inspect_beginnings(fresh)
        sessions = {run["session_id"] for run in fresh.values()} | {one.session_id for one in self._injected}
        await self._inspect_injections(client)
        sessions |= set(list(self._ledger.appended.values())[self._appended :])
        self._appended = len(self._ledger.appended)
        await each(sessions, lambda session_id: self._inspect_session(client, session_id))
        return waited

    async def inspect_store(self, database: str) -> None:
        """Look past the server at everything that was inspected before; `database` is a path or a URL."""
        stored = {row[0]: row[1] for row in await rows_of(database, "SELECT id, status FROM runs")}
        for run_id, run in self.runs.items():
            if stored.get(run_id) != run["status"]:
                self.findings.lost.append(f"{name_of(run)} is {stored.get(run_id)} later")
        self.findings.broken += await sequence_gaps(database)

    async def _inspect_log(self, client: httpx2.AsyncClient, run: Json, turn: Said | None) -> None:
        broken = self.findings.broken
        body = (await client.get(f"/runs/{run['id']}/events")).content
        found, name = frames(body), name_of(run)
        broken += faults_of_log(run, found)
        if run["status"] not in (("completed",) if run["background"] else ("completed", "interrupted")):
            broken.append(f"{name}: it should have ended otherwise: {run['error']}")
        self._inspect_output(run, found, name)
        for frame in found:
            if frame.data["type"] == "message_injected":
                self._hinted[frame.data["injection_id"]] += 1
                self._places[run["id"], frame.seq or 0] = frame.data["injection_id"]
        if turn is not None:
            self._inspect_told(turn, run, body, name)

    def _inspect_output(self, run: Json, found: Sequence[Frame], name: str) -> None:
        restarts = [at for at, frame in enumerate(found) if frame.data["type"] == "resumed"]
        last = said(found[restarts[-1] :]) if restarts else said(found)
        counted = [word for word in last.split() if word.isdecimal()]
        count = int(run["input"][-1]["content"].split()[-1])
        whole = [str(number) for number in range(count)]
        if run["output"] != last or counted != whole[: len(counted)]:
            self.findings.broken.append(f"{name}: its output is {run['output']!r}, its log says {last!r}")
        if run["status"] == "completed" and counted != whole:
            self.findings.broken.append(f"{name}: it counted {counted} of {count}")

    def _inspect_told(self, turn: Said, run: Json, body: bytes, name: str) -> None:
        if turn.output is not None and (run["status"], run["output"]) != ("completed", turn.output):
            self.findings.lost.append(f"{name}: {turn.output!r} was answered, {run['output']!r} is stored")
        if turn.surface == "stream":
            whole = turn.received[: turn.received.rfind(b"\n\n") + 2]
            if not body.startswith(whole):
                self.findings.lost.append(f"{name}: what was streamed is not what is stored")
        elif not run["output"].startswith(_heard(turn.received)):
            self.findings.lost.append(f"{name}: what was streamed in chunks is not what is stored")

    def _inspect_inputs(self, turns: Sequence[Said], fresh: dict[str, Json]) -> None:
        texts = Counter(run["input"][-1]["content"] for run in fresh.values())
        for turn in turns:
            if texts[turn.text] > 1:
                self.findings.doubled.append(f"{turn.surface}: {turn.text!r} made {texts[turn.text]} runs")
            if turn.run_id in fresh and fresh[turn.run_id]["input"] != [{"role": "user", "content": turn.text}]:
                self.findings.lost.append(f"the input of run {turn.run_id}")

    def _inspect_beginnings(self, fresh: dict[str, Json]) -> None:
        """No attempt of a run is made twice, and one that a client waited for is never made again."""
        begun = Counter(self._begun.read_text().splitlines())
        self.findings.doubled += [
            f"attempt {line!r} was begun {count} times" for line, count in begun.items() if count > 1
        ]
        for line in begun:
            run_id, attempt = line.split()
            if run_id in fresh and int(attempt) > (fresh[run_id]["attempt"] if fresh[run_id]["background"] else 1):
                self.findings.doubled.append(
                    f"attempt {attempt} of run {run_id}, which tells {fresh[run_id]['attempt']}"
                )

    async def _inspect_injections(self, client: httpx2.AsyncClient) -> None:
        fresh = self._ledger.injected[self._injections :]
        self._injections = len(self._ledger.injected)
        waiting: list[Injected] = []

        async def look(one: Injected) -> None:
            receipt = (await client.get(f"/injections/{one.id}")).json()
            if receipt.get("content") != one.text:
                self.findings.lost.append(f"injection {one.id} {one.text!r}: {receipt}")
            elif receipt["status"] == "deferred":
                waiting.append(one)
                if self._hinted[one.id]:
                    self.findings.doubled.append(f"injection {one.id} was delivered and waits")
            elif receipt["status"] != "delivered":
                self.findings.broken.append(f"injection {one.id} is {receipt['status']} when all runs have ended")
            elif self._places.get((receipt["run_id"], receipt["seq"])) != one.id:
                self.findings.lost.append(f"injection {one.id} is not where its receipt says: {receipt}")

        await each([*self._injected, *fresh], look)
        self.findings.doubled += [f"injection {id}: {count} times" for id, count in self._hinted.items() if count > 1]
        self._injected = waiting

    async def _inspect_session(self, client: httpx2.AsyncClient, session_id: str) -> None:
        messages = (await client.get(f"/sessions/{session_id}")).json()["messages"]
        if [message["position"] for message in messages] != list(range(1, len(messages) + 1)):
            self.findings.broken.append(f"the positions of session {session_id} have a gap")
        texts = Counter(message["content"] for message in messages if message["role"] == "user")
        self.findings.doubled += [f"{text!r} stands {n} times in {session_id}" for text, n in texts.items() if n > 1]
        for text in self._owed(session_id):
            if not texts[text]:
                self.findings.lost.append(f"{text!r} is not in session {session_id}")

    def _owed(self, session_id: str) -> Iterable[str]:
        """What must be in a session: what was appended, the turns that began, and what was delivered to its runs."""
        waiting = {one.id for one in self._injected}
        yield from (text for text, place in self._ledger.appended.items() if place == session_id)
        for turn in self._ledger.turns:
            if turn.session_id == session_id and turn.run_id in self.runs and self.runs[turn.run_id]["started_at"]:
                yield turn.text
        for one in self._ledger.injected:
            if one.session_id == session_id and one.id not in waiting:
                yield one.text


def _heard(received: bytes) -> str:
    """The text of the whole chunks of a stream of completions."""
    blocks = received.decode(errors="replace").split("\n\n")[:-1]
    chunks = [json.loads(block.removeprefix("data: ")) for block in blocks if block.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


def name_of(run: Json) -> str:
    return f"run {run['id']} ({run['status']}, attempt {run['attempt']})"


def faults_of_log(run: Json, found: Sequence[Frame]) -> list[str]:
    """What is wrong with the log of a run that has ended."""
    name, last, faults = name_of(run), found[-1].data, list[str]()
    if [frame.seq for frame in found] != list(range(1, len(found) + 1)):
        faults.append(f"{name}: its log has a gap: {[frame.seq for frame in found]}")
    if [at for at, frame in enumerate(found) if frame.data["type"] == "done"] != [len(found) - 1]:
        faults.append(f"{name}: its log has not one end")
    if (run["status"], run["output"]) != (last.get("status"), last.get("output")):
        faults.append(f"{name}: its row and its log differ")
    attempts = [frame.data["attempt"] for frame in found if frame.data["type"] == "resumed"]
    if attempts != sorted(set(attempts)) or any(not 1 < attempt <= run["attempt"] for attempt in attempts):
        faults.append(f"{name}: its log tells of the attempts {attempts}")
    return faults


async def each(items: Iterable[ItemT], look: Callable[[ItemT], Awaitable[None]]) -> None:
    """Look at all of them, several at a time."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def guarded(item: ItemT) -> None:
        async with gate:
            await look(item)

    await asyncio.gather(*(guarded(item) for item in list(items)))


async def _ended_runs(client: httpx2.AsyncClient, known: dict[str, Json]) -> dict[str, Json]:
    """The runs that are not known yet, once all of them have ended."""
    fresh: dict[str, Json] = {}
    after: dict[str, str] = {}
    while True:
        page = (await client.get("/runs", params={"limit": 100, **after})).json()
        new = [run for run in page["runs"] if run["id"] not in known]
        fresh |= {run["id"]: run for run in new}
        if not page["has_more"] or len(new) < len(page["runs"]):
            break
        after = {"after": page["runs"][-1]["id"]}
    for run_id in [id for id, run in fresh.items() if run["status"] not in _TERMINAL]:
        fresh[run_id] = (await client.get(f"/runs/{run_id}", params={"wait": 20})).json()
        assert fresh[run_id]["status"] in _TERMINAL, f"a run has no end: {fresh[run_id]}"
    return fresh


async def sequence_gaps(database: str) -> list[str]:
    """Sessions whose events are not numbered from 1 to the session's own count, and runs that are told of elsewhere."""
    found: dict[str, list[int]] = {}
    told: dict[tuple[str, str], int] = {}
    events = "SELECT session_key, sequence, event_type, run_id FROM session_events ORDER BY session_key, sequence"
    for key, sequence, event_type, run_id in await rows_of(database, events):
        found.setdefault(key, []).append(sequence)
        told[run_id, event_type] = sequence
    gaps = [
        f"session {key}: {found.get(key, [])}, and it is at {count}"
        for key, count in await rows_of(database, 'SELECT "key", sequence FROM sessions')
        if found.get(key, []) != list(range(1, count + 1))
    ]
    places = "SELECT id, started_sequence, ended_sequence FROM runs WHERE recorded = 1"
    for run_id, started, ended in await rows_of(database, places):
        wanted = (told.get((run_id, "run_started")), told.get((run_id, "run_ended")))
        if wanted != (started, ended):
            gaps.append(f"run {run_id} has its places at {started} and {ended}, and is told of at {wanted}")
    return gaps


async def rows_of(database: str, query: str) -> Sequence[Sequence[Any]]:
    """What a query finds in a store, past its server."""
    if "://" not in database:
        connection = sqlite3.connect(database)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()
    postgres = await asyncpg.connect(database)
    try:
        rows: Sequence[Sequence[Any]] = await postgres.fetch(query)
        return rows
    finally:
        await postgres.close()
