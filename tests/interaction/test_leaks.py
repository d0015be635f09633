"""Clients that leave in every way leave nothing behind: no open file, no task, no memory."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import connect

from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import sized

AGENTS = """
import asyncio, gc
from innkeeper import register_agent

async def counts(messages):
    for number in range(100):
        yield f"{number} " * 50
        await asyncio.sleep(0.002)

async def endless(messages):
    while True:
        yield "more "
        await asyncio.sleep(0.01)

async def tasks(messages):
    gc.collect()
    return str(len(asyncio.all_tasks()))

async def brief(messages):
    return "Hello"

register_agent("counts", counts)
register_agent("endless", endless)
register_agent("tasks", tasks)
register_agent("brief", brief)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def server(innkeeper_server: ServerFactory) -> ServerProcess:
    innkeeper_server.write("inn.py", AGENTS)
    return innkeeper_server("inn.py")


def descriptors(server: ServerProcess) -> int:
    return sum(1 for _ in Path(f"/proc/{server.pid}/fd").iterdir())


def megabytes(server: ServerProcess) -> float:
    status = Path(f"/proc/{server.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


async def tasks(server: ServerProcess) -> int:
    """How many tasks the server has when nothing else is asked of it."""
    async with httpx2.AsyncClient(base_url=server.url, timeout=20) as client:
        while (await client.get("/status")).json()["active_requests"]:
            await asyncio.sleep(0.02)
        answer = await client.post("/chat", json={"agent_name": "tasks", "input": "How many?"})
        return int(answer.json()["output"])


async def leave(server: ServerProcess, number: int) -> None:
    """One client that leaves in mid-stream, in one of many ways."""
    agent = "endless" if number % 2 else "counts"
    body = {"agent_name": agent, "input": "Go", "on_disconnect": "cancel" if number % 2 else "continue"}
    way = number % 5
    async with httpx2.AsyncClient(base_url=server.url, timeout=20) as client:
        if way == 0:
            async with connect(f"{server.url.replace('http', 'ws', 1)}/ws/chat") as socket:
                await socket.send(json.dumps(body))
                await socket.recv()
                socket.transport.abort()
        elif way == 1:
            waits = {"agent_name": "endless", "input": "Go", "on_disconnect": "cancel"}
            with pytest.raises(httpx2.ReadTimeout):
                await client.post("/chat", json=waits, timeout=httpx2.Timeout(20, read=0.1))
        else:
            async with client.stream("POST", "/chat/stream", json=body) as answer:
                await anext(answer.aiter_raw())
                if way > 2:
                    async with client.stream("GET", f"/runs/{answer.headers['x-run-id']}/events") as second:
                        await anext(second.aiter_raw())


async def crowd(server: ServerProcess, size: int) -> None:
    for start in range(0, size, 20):
        await asyncio.gather(*(leave(server, number) for number in range(start, start + 20)))


async def test_clients_that_leave_leave_nothing_behind(server: ServerProcess) -> None:
    await crowd(server, 60)
    tasks_before, files_before, memory_before = await tasks(server), descriptors(server), megabytes(server)
    await crowd(server, sized(300, 160))
    async with asyncio.timeout(40):  # a chore of the server's own may be under way at any moment
        while await tasks(server) > tasks_before:
            await asyncio.sleep(0.1)
    assert descriptors(server) <= files_before + 2
    assert megabytes(server) <= memory_before + 16
    assert "Traceback" not in server.log


async def test_finished_runs_leave_no_memory_behind(server: ServerProcess) -> None:
    async def talk(client: httpx2.AsyncClient, size: int) -> None:
        for _ in range(size):
            answer = await client.post("/chat/stream", json={"agent_name": "brief", "input": "x" * 20_000})
            assert answer.content.endswith(b"[DONE]\n\n")
        await tasks(server)  # which collects what is garbage

    async with httpx2.AsyncClient(base_url=server.url, timeout=20) as client:
        await talk(client, 500)  # the database's cache is full then
        before = megabytes(server)
        await talk(client, 500)
        assert megabytes(server) <= before + 4
