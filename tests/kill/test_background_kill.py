"""Background runs over two workers that are killed again and again: each ends once, and soon after a death."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper.services.assembling import UNKNOWN
from tests.kill.conftest import Place
from tests.support.inns import Frame, Json, frames, said
from tests.support.inspections import each, faults_of_log, name_of, rows_of
from tests.support.servers import ServerFactory, ServerProcess, innkeeper_command
from tests.support.sizes import within

RUNS = int(os.environ.get("KILL_BACKGROUND_RUNS", "60"))
KILLS = int(os.environ.get("KILL_BACKGROUND_KILLS", "3"))
AGENTS = '''
import asyncio
import os

from innkeeper import Agent, get_tool_call, register_agent, tool

effects = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(*words):
    os.write(effects, (" ".join(map(str, words)) + "\\n").encode())


async def counts(messages, context):
    note("counts", context.run_id, context.attempt)
    for number in range(20):
        yield f"{number} "
        await asyncio.sleep(0.08)


async def charge(order: str) -> str:
    """Charges for an order, which must not be done twice."""
    note("charge", order, get_tool_call().key)
    await asyncio.sleep(1.6)
    return f"charged {order}"


@tool(idempotent=True)
async def look_up(order: str) -> str:
    """Looks an order up, which may be done again."""
    note("look_up", order, get_tool_call().key)
    await asyncio.sleep(1.6)
    return f"{order} is there"


register_agent("counts", counts)
register_agent("shop", Agent(name="shop", model="test", tools=[charge, look_up]))
'''


@pytest.fixture
def workers(innkeeper_server: ServerFactory, place: Place, tmp_path: Path) -> list[ServerProcess]:
    innkeeper_server.write("inn.py", AGENTS)
    env = {**place.env, "EFFECTS": str(tmp_path / "effects.log"), "INNKEEPER_BACKGROUND_RUNS": "8"}
    return [innkeeper_server.start(innkeeper_command("inn.py"), env=env, readiness="/ready") for _ in range(2)]


@pytest.mark.parametrize("place", ["postgres", "postgres+redis"], indirect=True)
@pytest.mark.timeout(60 + 2 * RUNS + 10 * KILLS)
async def test_background_runs_end_once_and_soon_whichever_worker_is_killed(
    workers: list[ServerProcess], place: Place, tmp_path: Path
) -> None:
    asked = await _submit(workers)
    deaths = await _kill_now_and_then(workers, place.database)
    async with httpx2.AsyncClient(base_url=workers[0].url, timeout=70, trust_env=False) as client:
        runs, logs = await _ends(client, asked)
    effects = Counter((tmp_path / "effects.log").read_text().splitlines())
    late = {run_id: _ended_at(runs[run_id]) - died for run_id, died in deaths.items()}
    again = Counter(run["attempt"] for run in runs.values())
    print(
        f"\n{len(runs)} runs, {KILLS} kills: attempts {dict(again)}; {max(late.values()):.1f} s after a death at most"
    )
    faults = [fault for run_id, run in runs.items() for fault in _faults(run, logs[run_id], asked[run_id], effects)]
    assert not faults, "\n".join(faults[:20])
    assert max(late.values()) <= within(15, 30)
    assert max(again) > 1, "the kills hit somebody"


async def _submit(workers: list[ServerProcess]) -> dict[str, str]:
    """What each run was asked, by its id."""
    asked = dict[str, str]()
    async with httpx2.AsyncClient(timeout=20, trust_env=False) as client:

        async def submit(number: int) -> None:
            agent, text = [
                ("counts", f"order {number}"),
                ("shop", f'call charge {{"order": "c{number}"}}'),
                ("shop", f'call look_up {{"order": "l{number}"}}'),
            ][number % 3]
            body = {"agent_name": agent, "input": text, "background": True}
            answer = await client.post(f"{workers[number % 2].url}/chat", json=body)
            assert answer.status_code == 202, answer.text
            asked[answer.json()["run_id"]] = text

        await each(range(RUNS), submit)
    return asked


async def _kill_now_and_then(workers: list[ServerProcess], database: str) -> dict[str, float]:
    """When a worker died last while a run was under way, by the run's id."""
    chance, deaths = random.Random(), dict[str, float]()
    starting = dict[int, asyncio.Task[None]]()
    for kill in range(KILLS):
        await _have_ended(database, (kill + 1) * RUNS // (KILLS + 2))
        victim = chance.choice(workers)
        if victim.port in starting:
            await starting[victim.port]
        await asyncio.to_thread(victim.kill)
        died = time.time()
        for (run_id,) in await rows_of(database, "SELECT id FROM runs WHERE status = 'running'"):
            deaths[run_id] = died
        starting[victim.port] = asyncio.create_task(asyncio.to_thread(victim.start))
    await asyncio.gather(*starting.values())
    return deaths


async def _have_ended(database: str, count: int) -> None:
    while (await rows_of(database, "SELECT count(*) FROM runs WHERE ended_at IS NOT NULL"))[0][0] < count:
        await asyncio.sleep(0.02)


async def _ends(client: httpx2.AsyncClient, asked: dict[str, str]) -> tuple[dict[str, Json], dict[str, list[Frame]]]:
    """The runs once they have ended, and their logs."""
    runs, logs = dict[str, Json](), dict[str, list[Frame]]()

    async def look(run_id: str) -> None:
        runs[run_id] = (await client.get(f"/runs/{run_id}", params={"wait": 60})).json()
        logs[run_id] = frames((await client.get(f"/runs/{run_id}/events")).content)

    await each(asked, look)
    return runs, logs


def _ended_at(run: Json) -> float:
    return datetime.fromisoformat(run["ended_at"]).timestamp()


def _faults(run: Json, found: list[Frame], asked: str, effects: Counter[str]) -> list[str]:
    faults = faults_of_log(run, found)
    if run["status"] != "completed":
        faults.append(f"{name_of(run)}: {run['error']}")
    elif run["agent_name"] == "counts":
        faults += _faults_of_counting(run, found, effects)
    else:
        faults += _faults_of_calling(run, found, asked.split('"')[3], effects)
    return faults


def _faults_of_counting(run: Json, found: list[Frame], effects: Counter[str]) -> list[str]:
    if run["output"] != "".join(f"{number} " for number in range(20)):
        return [f"{name_of(run)}: {run['output']!r}"]
    twice = [line for line, count in effects.items() if line.startswith(f"counts {run['id']} ") and count > 1]
    return [f"{name_of(run)}: {line} twice" for line in twice]


def _faults_of_calling(run: Json, found: list[Frame], order: str, effects: Counter[str]) -> list[str]:
    """What must not be done twice was done once, or its outcome is told as unknown; the other was done."""
    kind = "charge" if order.startswith("c") else "look_up"
    made = [
        line.split()[2] for line, count in effects.items() if line.startswith(f"{kind} {order} ") for _ in range(count)
    ]
    results = [frame.data for frame in found if frame.data["type"] == "tool_result"]
    told: Any = (results[0].get("error") or results[0].get("result")) if len(results) == 1 else results
    faults = [f"{name_of(run)}: {kind} under the keys {set(made)}"] if len(set(made)) > 1 else []
    if kind == "look_up" and (not made or told != f"{order} is there"):
        faults.append(f"{name_of(run)}: {order} was looked up {len(made)} times: {told}")
    is_known = told == f"charged {order}"
    if kind == "charge" and not (len(made) == 1 if is_known else told == UNKNOWN and len(made) < 2):
        faults.append(f"{name_of(run)}: {order} was charged {len(made)} times: {told}")
    if run["output"] not in said(found):
        faults.append(f"{name_of(run)}: {run['output']!r} was never said")
    return faults
