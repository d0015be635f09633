"""Measures event streams: how soon an event published over HTTP is on a WebSocket, and what a large audience costs.

`python -m bench.events [--quick] [--app TARGET]`; PostgreSQL is measured where `TEST_DATABASE_URL` names one or the
tests' own can be had. Publisher, prober and watchers share the machine with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.reports import Figure, with_section
from bench.servers import ROOT, Server
from bench.watchers import handshake, whole_frames

SECTION = "Event streams"
_PUBLISHERS = 8
_PROBE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """`singles` events one at a time; then `watchers` see `rate` events a second for so many seconds."""

    singles: int
    watchers: int
    rate: int
    seconds: int


FULL = Plan(singles=500, watchers=1000, rate=100, seconds=15)
QUICK = Plan(singles=100, watchers=1000, rate=100, seconds=5)


class Connection:
    """Requests one after the other over a connection that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """The answer's body. Raises: RuntimeError unless it is a success."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(data)}\r\n"
        self._writer.write(f"{head}content-type: application/json\r\n\r\n".encode() + data)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        lengths = [line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        content = await self._reader.readexactly(int(lengths[0][15:]))
        if not answer.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"{method} {path}: {answer!r} {content!r}")
        return content

    async def new_session(self) -> str:
        session_id: str = json.loads(await self.ask("POST", "/sessions", {}))["id"]
        return session_id

    async def publish(self, session_id: str) -> None:
        data = {"stamp": time.monotonic_ns(), "status": "processing", "progress": 0.5, "note": "x" * 60}
        await self.ask("POST", f"/api/sessions/{session_id}/events", {"event_type": "StatusUpdate", "data": data})

    def close(self) -> None:
        self._writer.close()


async def latency(port: int, times: int) -> tuple[list[float], list[float]]:
    """Milliseconds from an event's publication over HTTP until it is on a WebSocket, and until it is answered."""
    publisher, watcher = await Connection.open(port), await asyncio.open_connection("127.0.0.1", port)
    session_id = await publisher.new_session()
    reader, writer = watcher
    writer.write(handshake(f"/api/sessions/{session_id}/events/stream"))
    await reader.readuntil(b"\r\n\r\n")
    seen, answered = [], []

    async def arrival() -> float:
        data = b""
        while not whole_frames(data)[1]:
            data += await reader.read(65536)
        return time.monotonic()

    for _ in range(times + 20):
        arriving = asyncio.create_task(arrival())
        began = time.monotonic()
        await publisher.publish(session_id)
        answered.append((time.monotonic() - began) * 1e3)
        seen.append((await arriving - began) * 1e3)
        await asyncio.sleep(0.005)
    publisher.close()
    writer.close()
    return seen[20:], answered[20:]


async def publish_paced(port: int, session_id: str, plan: Plan) -> None:
    """Publish at the plan's rate, over several connections, so that a slow answer delays nothing else."""
    began, count = time.monotonic(), plan.rate * plan.seconds

    async def publisher(number: int) -> None:
        connection = await Connection.open(port)
        for index in range(number, count, _PUBLISHERS):
            await asyncio.sleep(max(0.0, began + index / plan.rate - time.monotonic()))
            await connection.publish(session_id)
        connection.close()

    await asyncio.gather(*(publisher(number) for number in range(_PUBLISHERS)))


async def probe(port: int, taken: list[float]) -> None:
    """Ask for /health every 20 ms; how long each answer takes is counted from when it was due."""
    connection, due = await Connection.open(port), time.monotonic()
    try:
        while True:
            await connection.ask("GET", "/health")
            taken.append((time.monotonic() - due) * 1e3)
            due += _PROBE_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    finally:
        connection.close()


async def gathered(server: Server, session_id: str, plan: Plan) -> asyncio.subprocess.Process:
    """The watchers of a session, in a process of their own."""
    command = [sys.executable, "-m", "bench.watchers", "--port", str(server.port)]
    command += ["--path", f"/api/sessions/{session_id}/events/stream", "--count", str(plan.watchers)]
    command += ["--expected", str(plan.rate * plan.seconds), "--seconds", str(plan.seconds + 30)]
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)


async def line_of(watchers: asyncio.subprocess.Process, server: Server) -> bytes:
    """What the watchers say next."""
    assert watchers.stdout is not None, "its output is a pipe"
    if not (line := await watchers.stdout.readline()):
        raise RuntimeError(f"the watchers said nothing\n{server.log[-4000:]}")
    return line


@asynccontextmanager
async def observed(server: Server) -> AsyncIterator[dict[str, Any]]:
    """What the server takes meanwhile, and how soon it answers /health; it is there afterwards."""
    health, told = list[float](), dict[str, Any]()
    probing = asyncio.create_task(probe(server.port, health))
    began, before = time.monotonic(), server.cpu_seconds()
    yield told
    took, used = time.monotonic() - began, server.cpu_seconds() - before
    probing.cancel()
    health.sort()
    told |= {"seconds": took, "cpu": used / took, "memory": server.memory()}
    told |= {"p50": health[len(health) // 2], "p99": health[len(health) * 99 // 100], "max": health[-1]}


def checked(told: bytes, server: Server) -> dict[str, Any]:
    """What watchers saw. Raises: RuntimeError unless it was everything, in order."""
    seen: dict[str, Any] = json.loads(told)
    if seen["failure"]:
        raise RuntimeError(f"{seen['failure']}\n{server.log[-4000:]}")
    return seen


async def crowd(server: Server, plan: Plan) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What many watchers of one session saw live, what that took, and what it took to show it all to as many again."""
    connection = await Connection.open(server.port)
    session_id = await connection.new_session()
    connection.close()
    watchers = await gathered(server, session_id, plan)
    await line_of(watchers, server)
    async with observed(server) as live:
        await publish_paced(server.port, session_id, plan)
        seen = checked(await line_of(watchers, server), server)
    async with observed(server) as late:
        watchers = await gathered(server, session_id, plan)
        await line_of(watchers, server)
        checked(await line_of(watchers, server), server)
    return seen, live, late


@contextmanager
def stores() -> Iterator[list[tuple[str, dict[str, str]]]]:
    """The stores to measure, each with the environment that names it."""
    from tests.support.databases import a_copy_of, a_migrated_database
    from tests.support.services import ServiceMissing, running_postgres

    sqlite: tuple[str, dict[str, str]] = ("SQLite", {})
    try:
        with running_postgres() as administrator, a_copy_of(a_migrated_database(administrator), administrator) as url:
            yield [sqlite, ("PostgreSQL", {"DATABASE_URL": url})]
    except ServiceMissing as missing:
        print(missing)
        yield [sqlite]


def measure(plan: Plan, app: str, scratch: Path) -> tuple[list[Figure], list[str]]:
    figures, told = list[Figure](), list[str]()
    command = [sys.executable, "-m", "innkeeper", "serve", app, "--port", "{port}"]
    with stores() as found:
        for name, environment in found:
            with Server(command, scratch, {"INNKEEPER_DATA_DIR": str(scratch / name), **environment}) as server:
                print(f"One subscriber, {name} ...", flush=True)
                seen, answered = uvloop.run(latency(server.port, plan.singles))
                print(f"{plan.watchers:,} subscribers, {name} ...", flush=True)
                saw, live, late = uvloop.run(crowd(server, plan))
            figures += [
                Figure(f"published to seen, {name}, median", "ms", None, median(seen), at_most=5.0),
                Figure(f"published to seen, {name}, p99", "ms", None, sorted(seen)[len(seen) * 99 // 100]),
                Figure(f"published to answered, {name}, median", "ms", None, median(answered)),
                Figure(f"/health among the audience, {name}, p50", "ms", None, live["p50"]),
                Figure(f"/health among the audience, {name}, p99", "ms", None, live["p99"], at_most=150.0),
                Figure(f"/health while all of it is replayed to all, {name}, p99", "ms", None, late["p99"]),
                Figure(f"published to seen among the audience, {name}, median", "ms", None, saw["p50"]),
                Figure(f"published to seen among the audience, {name}, p99", "ms", None, saw["p99"]),
            ]
            told.append(
                f"- {name}: {plan.watchers:,} subscribers of one session saw {plan.rate * plan.seconds:,} events each,"
                f" in order and without a gap ({saw['received']:,} in all), {plan.rate} a second for {plan.seconds} s;"
                f" {saw['received'] / saw['reads']:.1f} events a read. The server took {live['cpu']:.0%} of a core and"
                f" {live['memory']:.0f} MB, the subscribers {saw['cpu_seconds'] / live['seconds']:.0%}; /health took"
                f" {live['max']:.0f} ms at most. As many who came afterwards had seen the same within"
                f" {late['seconds']:.1f} s, the start of their process included."
            )
    return figures, told


def _circumstances() -> str:
    return (
        f"- `python -m bench.events`; PostgreSQL without fsync, which is how the tests run it; a load of"
        f" {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end, by whatever else the machine did, too"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.events", description="Measure event streams.")
    parser.add_argument("--quick", action="store_true", help="RESULTS.md is left as it is")
    parser.add_argument("--app", default="bench/product.py", help="what is served")
    options = parser.parse_args()
    (ROOT / ".data").mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".data"))
    try:
        figures, told = measure(QUICK if options.quick else FULL, options.app, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    results = ROOT / "bench" / "RESULTS.md"
    text = with_section(
        results.read_text(),
        SECTION,
        figures,
        [*told, _circumstances()],
    )
    print(text[text.index(f"## {SECTION}") :])
    if not options.quick:
        results.write_text(text)


if __name__ == "__main__":
    main()
