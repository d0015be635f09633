"""Agents that block or burn: whoever is to blame is named, and the server goes on answering."""

from __future__ import annotations

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median, quantiles

import httpx2
import pytest

from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import IS_FULL, sized, within

BLOCKED = within(0.6, 2.0)
"""Seconds; on a busy machine the watchdog is late itself now and then, and blames nobody for that."""

AGENTS = """
import asyncio, time
from pathlib import Path
from innkeeper import Agent, ServerBase

app = ServerBase()

def burn():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        sum(number for number in range(1000))

@app.agent("echo")
async def echo(messages):
    return messages[-1]["content"]

@app.agent("sleeps")
def sleeps(messages):
    while not Path("wake up").exists():
        time.sleep(0.05)
    return "awake"

@app.agent("burns")
def burns(messages):
    burn()

@app.agent("blocks")
async def blocks(messages):
    time.sleep(BLOCKED)
    return "done"

@app.agent("blocks_alone", isolated=True)
async def blocks_alone(messages):
    if messages[-1]["content"] == "block":
        time.sleep(60)
    return "done"

@app.agent("burns_alone", isolated=True)
async def burns_alone(messages):
    burn()

@app.agent("works")
async def works(messages):
    while True:
        end = time.process_time() + 0.08
        while time.process_time() < end:
            pass
        yield "more "
        await asyncio.sleep(0)

def look_up(word: str) -> str:
    return f"nothing about {word}"

app.agent("model")(Agent("model", model="test", tools=[look_up], isolated=True))
""".replace("BLOCKED", str(BLOCKED))

BOUND = within(0.15, 1.0)
"""Seconds within which 99 of 100 requests for the server's health are answered; one that waits for an agent takes
longer than any of them."""


@pytest.fixture
def server(innkeeper_server: ServerFactory) -> ServerProcess:
    innkeeper_server.write("blocking.py", AGENTS)
    return innkeeper_server("blocking.py", env={"INNKEEPER_DRAIN_SECONDS": "0"})


def ask(server: ServerProcess, agent: str, said: str = "Hello") -> httpx2.Response:
    body = {"agent_name": agent, "input": said}
    return httpx2.post(f"{server.url}/chat", json=body, timeout=60, trust_env=False)


def begin(server: ServerProcess, agent: str, said: str = "block") -> str:
    """Start a run and leave it alone; returns its id."""
    body = {"agent_name": agent, "input": said}
    with httpx2.stream("POST", f"{server.url}/chat/stream", json=body, timeout=20, trust_env=False) as answer:
        next(answer.iter_raw())
        return str(answer.headers["x-run-id"])


def slowest(server: ServerProcess, count: int = sized(250, 100)) -> float:
    """The 99th percentile of so many requests for the server's health, in seconds; the best of up to three rounds.

    Whatever else this machine does makes a round slow now and then; a server that waits for its agents is always so.
    """
    found = _slowest(server, count)
    for _ in range(2):
        if found >= BOUND:
            found = _slowest(server, count)
    return found


def _slowest(server: ServerProcess, count: int) -> float:
    took = []
    with httpx2.Client(base_url=server.url, timeout=20, trust_env=False) as client:
        client.get("/live")
        for number in range(count):
            began = time.perf_counter()
            assert client.get("/live" if number % 2 else "/health").status_code == 200
            took.append(time.perf_counter() - began)
            time.sleep(0.005)
    found = quantiles(took, n=100)[98]
    print(f"p50 {median(took) * 1000:.1f} ms, p99 {found * 1000:.1f} ms, most {max(took) * 1000:.1f} ms")
    return found


def test_an_agent_that_blocks_the_event_loop_is_named_with_file_and_line_once(server: ServerProcess) -> None:
    assert ask(server, "blocks").json()["output"] == "done"
    lasted = float(server.wait_for_log(r"it was blocked for ([\d.]+) s"))
    assert within(0.5, 0.1) <= lasted <= within(0.7, 6)
    line = AGENTS.splitlines().index(f"    time.sleep({BLOCKED})") + 1
    place = rf"{server.folder}/blocking\.py:{line} in blocks\."
    named = re.findall(rf"WARNING .*blocked for more than 250 ms by {place}", server.log)
    assert len(named) == 1
    assert not IS_FULL or server.log.count("blocked for") == 2


def test_a_machine_that_was_suspended_is_nobodys_fault(server: ServerProcess) -> None:
    begin(server, "works")
    for number in range(sized(6, 3)):
        server.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        server.send_signal(signal.SIGCONT)
        assert ask(server, "echo").status_code == 200
        time.sleep(0.2 + number / 100)
    # A step of this agent is long only where the machine has no time for it, and never as long as the suspension.
    assert all(float(lasted) < 1.4 for lasted in re.findall(r"it was blocked for ([\d.]+) s", server.log))


def test_health_is_answered_at_once_while_agents_block_and_burn(server: ServerProcess) -> None:
    for agent in ("sleeps", "sleeps", "sleeps", "sleeps", "burns", "burns", "burns", "blocks_alone", "burns_alone"):
        begin(server, agent)
    assert slowest(server) < BOUND
    blamed = re.findall(r"event loop has been blocked for .* by (\S+)", server.log)
    assert not [place for place in blamed if IS_FULL or "blocking.py" in place]
    assert httpx2.get(f"{server.url}/status", trust_env=False).json()["active_requests"] == 9


def test_more_sync_runs_than_threads_wait_for_one_and_disturb_nobody(server: ServerProcess) -> None:
    with ThreadPoolExecutor(70) as pool:
        answers = [pool.submit(ask, server, "sleeps") for _ in range(70)]
        while httpx2.get(f"{server.url}/status", trust_env=False).json()["active_requests"] < 70:
            time.sleep(0.02)
        assert slowest(server) < BOUND
        assert ask(server, "echo").json()["output"] == "Hello"
        assert not any(answer.done() for answer in answers)
        (server.folder / "wake up").touch()
        assert [answer.result().json()["output"] for answer in answers] == ["awake"] * 70


def test_an_isolated_agent_that_does_not_react_is_ended_and_its_next_run_begins_elsewhere(
    server: ServerProcess,
) -> None:
    with httpx2.Client(base_url=server.url, timeout=20, trust_env=False) as client:
        blocked = begin(server, "blocks_alone")
        began = time.monotonic()
        client.post(f"/runs/{blocked}/cancel")
        assert client.get(f"/runs/{blocked}", params={"wait": 15}).json()["status"] == "cancelled"
        assert time.monotonic() - began < within(3, 15)
        assert ask(server, "blocks_alone").json()["output"] == "done"
        assert time.monotonic() - began < within(5, 30)
    line = AGENTS.splitlines().index("        time.sleep(60)") + 1
    server.wait_for_log(rf"(agent 'blocks_alone' has blocked its event loop .*blocking\.py:{line} in blocks_alone)")
    assert server.terminate() == 0


def test_an_isolated_agent_with_a_model_and_tools_is_an_agent_like_any_other(server: ServerProcess) -> None:
    answer = ask(server, "model", 'call look_up {"word": "inns"}').json()
    assert answer["output"] == "look_up returned nothing about inns."
    assert answer["usage"] is not None
