"""Floods: agents that say more than anybody can take are stopped, and neither memory nor other clients suffer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import httpx2
import pytest

from innkeeper.services.live import MAX_OUTPUT
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import within

AGENTS = """
from innkeeper import Agent, ServerBase

app = ServerBase()

@app.agent("echo")
async def echo(messages):
    return messages[-1]["content"]

def sync(piece):
    def flood(messages):
        while True:
            yield piece
    return flood

def asynchronous(piece):
    async def flood(messages):
        while True:
            yield piece
    return flood

async def tools(messages):
    number = 0
    while True:
        number += 1
        yield {"type": "tool_call", "tool_name": "dig", "tool_call_id": f"c{number}", "arguments": "{}"}
        yield {"type": "tool_result", "tool_call_id": f"c{number}", "result": "x" * 10_000}

async def at_once(messages):
    return "x" * 100_000_000

app.agent("sync")(sync("x" * 1000))
app.agent("async")(asynchronous("x" * 1000))
app.agent("isolated", isolated=True)(asynchronous("x" * 1000))
app.agent("long")(sync("x" * 4_000_000))
app.agent("tools")(tools)
app.agent("at_once")(at_once)
"""

MEGABYTE = 1024 * 1024

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def server(innkeeper_server: ServerFactory) -> ServerProcess:
    innkeeper_server.write("floods.py", AGENTS)
    return innkeeper_server("floods.py")


def most_memory(server: ServerProcess) -> int:
    """The most that the server has ever held, in bytes."""
    (line,) = (
        line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if line.startswith("VmHWM:")
    )
    return int(line.split()[1]) * 1024


def ask(server: ServerProcess, agent: str) -> httpx2.Response:
    body = {"agent_name": agent, "input": "Hello", "session_id": f"session of {agent}"}
    return httpx2.post(f"{server.url}/chat", json=body, timeout=60, trust_env=False)


@contextmanager
def others(server: ServerProcess) -> Iterator[list[float]]:
    """Another client that asks again and again meanwhile; how long each of its answers took, in seconds."""
    took: list[float] = []
    is_over = Event()

    def visit() -> None:
        while not (took and is_over.is_set()):
            began = time.perf_counter()
            assert ask(server, "echo").json()["output"] == "Hello"
            took.append(time.perf_counter() - began)

    with ThreadPoolExecutor(1) as pool:
        visiting = pool.submit(visit)
        yield took
        is_over.set()
        visiting.result(60)


@pytest.mark.parametrize("agent", ["sync", "async", "isolated", "long", "tools", "at_once"])
def test_agent_that_never_stops_talking_is_stopped_and_others_are_served(server: ServerProcess, agent: str) -> None:
    ask(server, "echo")
    before = most_memory(server)
    with others(server) as took:
        answer = ask(server, agent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "AGENT_FAILED")
    assert "The output exceeds 16 MiB." in server.log
    (run,) = httpx2.get(f"{server.url}/runs", params={"agent_name": agent}, timeout=20, trust_env=False).json()["runs"]
    assert run["status"] == "failed"
    assert len(run["output"]) <= MAX_OUTPUT
    grown = most_memory(server) - before
    print(f"{agent}: {grown // MEGABYTE} MiB more, {len(took)} others, the slowest {max(took):.2f} s")
    assert grown < 320 * MEGABYTE
    assert max(took) < within(5, 20)
