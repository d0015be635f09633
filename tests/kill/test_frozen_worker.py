"""A worker that stands still for longer than its peers are patient, and then goes on: it finds itself replaced."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial

import httpx2
import pytest

from tests.kill.conftest import Place
from tests.support.inns import frames
from tests.support.inspections import faults_of_log
from tests.support.servers import ServerFactory, ServerProcess, innkeeper_command
from tests.support.sizes import within

RUNS = 4
FROZEN_SECONDS = 12.0
AGENTS = '''
import asyncio
from pathlib import Path

from innkeeper import register_agent


async def counts(messages, context):
    """Counts up in the first attempt, and in the next one says so until it is over."""
    number = 0
    while context.attempt == 1:
        yield f"{number} "
        number += 1
        await asyncio.sleep(0.001)
    yield "again"
    while not Path("over").exists():
        await asyncio.sleep(0.01)
    yield " and over"


async def echo(messages):
    return messages[-1]["content"]


register_agent("counts", counts)
register_agent("echo", echo)
'''


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
async def test_a_frozen_worker_is_replaced_and_writes_nothing_when_it_goes_on(
    innkeeper_server: ServerFactory, place: Place
) -> None:
    innkeeper_server.write("inn.py", AGENTS)
    start = partial(innkeeper_server.start, innkeeper_command("inn.py"), env=place.env, readiness="/ready")
    frozen = start()
    async with _client(frozen) as there:
        streams = [Stream(there, f"s{number}") for number in range(RUNS)]
        background = [await _begun_in_background(there) for _ in range(RUNS)]
        await asyncio.gather(*(stream.begun() for stream in streams))
        other = await asyncio.to_thread(start)
        frozen.send_signal(signal.SIGSTOP)
        stopped = time.time()
        try:
            async with _client(other) as here:
                await asyncio.gather(*(_taken_up_again(here, run_id, stopped) for run_id in background))
                logs = {stream.run_id: await _interrupted(here, stream.run_id, stopped) for stream in streams}
            await asyncio.sleep(stopped + FROZEN_SECONDS - time.time())
        finally:
            frozen.send_signal(signal.SIGCONT)
        for stream in streams:
            assert await stream.ended() == logs[stream.run_id], "a client there reads what is stored"
        answer = await there.post("/chat", json={"agent_name": "echo", "input": "Well?", "session_id": "s0"})
        assert answer.json()["output"] == "Well?", answer.text
        await _idle(there)
        innkeeper_server.write("over", "")
        for run_id in background:
            run = (await there.get(f"/runs/{run_id}", params={"wait": 10})).json()
            assert (run["status"], run["attempt"], run["output"]) == ("completed", 2, "again and over")
            assert faults_of_log(run, frames(await _log(there, run_id))) == [], "nobody who was too late added to it"
        for run_id, log in logs.items():
            assert await _log(there, run_id) == log
    for server in (frozen, other):
        assert "Traceback" not in server.log


class Stream:
    """A client that reads an endless run, whatever happens to who tells it."""

    def __init__(self, client: httpx2.AsyncClient, session_id: str) -> None:
        self.run_id = ""
        self._received = b""
        self._begun = asyncio.Event()
        self._reading = asyncio.create_task(self._read(client, session_id))

    async def _read(self, client: httpx2.AsyncClient, session_id: str) -> None:
        body = {"agent_name": "counts", "input": "Count", "session_id": session_id}
        async with client.stream("POST", "/chat/stream", json=body) as answer:
            self.run_id = answer.headers["x-run-id"]
            async for chunk in answer.aiter_raw():
                self._received += chunk
                self._begun.set()

    async def begun(self) -> None:
        await asyncio.wait_for(self._begun.wait(), 20)

    async def ended(self) -> bytes:
        await asyncio.wait_for(self._reading, 30)
        return self._received


@asynccontextmanager
async def _client(server: ServerProcess) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=server.url, timeout=40, trust_env=False) as client:
        yield client


async def _begun_in_background(client: httpx2.AsyncClient) -> str:
    answer = await client.post("/chat", json={"agent_name": "counts", "input": "Count", "background": True})
    run_id: str = answer.json()["run_id"]
    async with client.stream("GET", f"/runs/{run_id}/events") as events:
        async for line in events.aiter_lines():
            if '"text"' in line:
                return run_id
    raise AssertionError(f"run {run_id} ended")


async def _taken_up_again(client: httpx2.AsyncClient, run_id: str, stopped: float) -> None:
    async with client.stream("GET", f"/runs/{run_id}/events") as events:
        async for line in events.aiter_lines():
            if '"again"' in line:
                assert time.time() - stopped <= within(15, 30)
                return
    raise AssertionError(f"run {run_id} ended")


async def _interrupted(client: httpx2.AsyncClient, run_id: str, stopped: float) -> bytes:
    """The log of a run that its new owner has ended."""
    run = (await client.get(f"/runs/{run_id}", params={"wait": 30})).json()
    assert run["status"] == "interrupted"
    assert 8 < datetime.fromisoformat(run["ended_at"]).timestamp() - stopped <= within(15, 30)
    log = await _log(client, run_id)
    assert faults_of_log(run, frames(log)) == []
    return log


async def _idle(client: httpx2.AsyncClient) -> None:
    """Return when that server has nothing under way."""
    async with asyncio.timeout(30):
        while (await client.get("/status")).json()["active_requests"]:
            await asyncio.sleep(0.05)


async def _log(client: httpx2.AsyncClient, run_id: str) -> bytes:
    body: bytes = (await client.get(f"/runs/{run_id}/events")).content
    return body
