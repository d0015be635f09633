"""A server that is killed again and again while many clients write has all that it acknowledged, once."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from functools import partial

import httpx2
import pytest

from tests.kill.conftest import Place
from tests.support.inspections import Inspector
from tests.support.servers import ServerFactory, ServerProcess, innkeeper_command
from tests.support.sizes import sized, within
from tests.support.writers import AGENTS, Ledger, writing

ROUNDS = int(os.environ.get("KILL_ROUNDS", sized(10, 4)))
READY_SECONDS, SETTLED_SECONDS = within(3.0, 12.0), within(3.0, 6.0)
_SESSIONS_LAST = 5


@pytest.mark.timeout(60 + 12 * ROUNDS)
async def test_what_eight_writers_were_told_survives_kills_once_and_without_gaps(
    innkeeper_server: ServerFactory, place: Place
) -> None:
    innkeeper_server.write("inn.py", AGENTS)
    began = time.monotonic()
    server = innkeeper_server.start(innkeeper_command("inn.py"), env=place.env, readiness="/ready")
    unburdened = time.monotonic() - began
    ledger, chance = Ledger(), random.Random()
    inspector, ready, settled = Inspector(ledger, innkeeper_server.folder / "begun.log"), list[float](), list[float]()
    for number in range(ROUNDS):
        sessions = [f"{name}-{number // _SESSIONS_LAST}" for name in ("red", "blue")]
        async with writing(server.url, ledger, sessions, number) as writers:
            await writers.acknowledged(chance.randint(1, 40))
            server.kill()
        ready.append(await _start_again(server))
        async with _client(server) as client:
            settled.append(await inspector.inspect(client))
    await inspector.inspect_store(place.database)
    _tell(ledger, inspector, ready, settled)
    inspector.findings.assert_none()
    assert {run["status"] for run in inspector.runs.values()} == {"completed", "interrupted"}
    # A start that nothing went before tells how busy this machine is.
    assert statistics.median(ready) <= max(READY_SECONDS, 1.5 * unburdened), ready
    assert statistics.median(settled) <= SETTLED_SECONDS, "the dead are missed at once, and not when they are overdue"
    assert "Traceback" not in server.log


@pytest.mark.parametrize("place", ["postgres", "postgres+redis"], indirect=True)
@pytest.mark.timeout(60 + 12 * ROUNDS)
async def test_writers_at_one_worker_go_on_while_another_is_killed(
    innkeeper_server: ServerFactory, place: Place
) -> None:
    innkeeper_server.write("inn.py", AGENTS)
    start = partial(innkeeper_server.start, innkeeper_command("inn.py"), env=place.env, readiness="/ready")
    doomed, other = start(), start()
    inspector = Inspector(ledger := Ledger(), innkeeper_server.folder / "begun.log")
    for number in range(max(2, ROUNDS // 5)):
        sessions = [f"{name}-{number}" for name in ("red", "blue")]
        async with writing(other.url, ledger, sessions, -1 - number) as going_on:
            async with writing(doomed.url, ledger, sessions, number) as writers:
                await writers.acknowledged(random.randint(1, 40))
                doomed.kill()
            starting = asyncio.create_task(asyncio.to_thread(doomed.start))
            await going_on.acknowledged(40)
            await starting
        async with _client(other) as client:
            await inspector.inspect(client)
    await inspector.inspect_store(place.database)
    inspector.findings.assert_none()
    assert "Traceback" not in other.log


def _client(server: ServerProcess) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=server.url, timeout=30, trust_env=False)


async def _start_again(server: ServerProcess) -> float:
    """Seconds until it takes requests again."""
    began = time.monotonic()
    await asyncio.to_thread(server.start)
    return time.monotonic() - began


def _tell(ledger: Ledger, inspector: Inspector, ready: list[float], settled: list[float]) -> None:
    findings, runs = inspector.findings, inspector.runs.values()
    again = sum(run["attempt"] > 1 for run in runs)
    cut = sum(run["status"] == "interrupted" for run in runs)
    print(
        f"\n{len(ready)} kills: {ledger.acknowledged} acknowledged, {len(findings.lost)} lost, {len(findings.doubled)}"
        f" doubled, {len(findings.broken)} broken; {len(runs)} runs, {cut} interrupted, {again} taken up again;"
        f" ready after {statistics.median(ready):.2f} s (median), {max(ready):.2f} s (longest),"
        f" and every run had ended {statistics.median(settled):.2f} s and {max(settled):.2f} s later"
    )
