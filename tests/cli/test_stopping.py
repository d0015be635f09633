"""How a server ends: with 0 and every answer that it can still give, and in any case in time."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.cli.conftest import ECHO
from tests.support.servers import ServerFactory
from tests.support.sizes import within

AGENT = """
import asyncio, time
from innkeeper import register_agent

{code}
register_agent("mine", mine)
"""


def ask(url: str) -> httpx2.Response:
    return httpx2.post(f"{url}/chat", json={"input": "Hello", "session_id": "s"}, timeout=60, trust_env=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_with_0(innkeeper_server: ServerFactory, number: signal.Signals) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py")
    server.send_signal(number)
    assert server.wait() == 0
    assert "Traceback" not in server.log


def test_an_answer_under_way_is_given_before_the_server_ends(innkeeper_server: ServerFactory) -> None:
    code = """
async def mine(messages):
    print("began", flush=True)
    await asyncio.sleep(1)
    return "the whole answer"
"""
    innkeeper_server.write("mine.py", AGENT.format(code=code))
    server = innkeeper_server("mine.py")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, server.url)
        server.wait_for_log("(began)")
        assert server.terminate() == 0
        assert answer.result().json()["output"] == "the whole answer"


@pytest.mark.parametrize("wait", ["time.sleep(600)", "[time.sleep(0.1) for _ in range(6000)]"])
def test_a_sync_agent_that_never_returns_does_not_keep_the_server(innkeeper_server: ServerFactory, wait: str) -> None:
    code = f"""
def mine(messages):
    print("began", flush=True)
    {wait}
"""
    innkeeper_server.write("mine.py", AGENT.format(code=code))
    server = innkeeper_server("mine.py", env={"INNKEEPER_DRAIN_SECONDS": "1"})
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, server.url)
        server.wait_for_log("(began)")
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < within(7, 20)
        assert answer.result().json()["error"]["code"] == "INTERRUPTED"
    assert "The server did not end within" not in server.log
    server.start()
    runs = httpx2.get(f"{server.url}/runs", timeout=20, trust_env=False).json()["runs"]
    assert [run["status"] for run in runs] == ["interrupted"]


def test_a_thread_of_asyncio_that_never_returns_does_not_keep_the_server(innkeeper_server: ServerFactory) -> None:
    code = """
async def mine(messages):
    print("began", flush=True)
    await asyncio.to_thread(time.sleep, 600)
"""
    innkeeper_server.write("mine.py", AGENT.format(code=code))
    server = innkeeper_server("mine.py", env={"INNKEEPER_DRAIN_SECONDS": "0"})
    with ThreadPoolExecutor() as pool:
        pool.submit(ask, server.url)
        server.wait_for_log("(began)")
        assert server.terminate() == 0
    assert "The server did not end within" not in server.log


def test_an_agent_that_blocks_the_event_loop_does_not_keep_the_server(innkeeper_server: ServerFactory) -> None:
    code = """
async def mine(messages):
    print("began", flush=True)
    time.sleep(600)
"""
    innkeeper_server.write("mine.py", AGENT.format(code=code))
    server = innkeeper_server("mine.py", env={"INNKEEPER_DRAIN_SECONDS": "0"})
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, server.url)
        server.wait_for_log("(began)")
        assert server.terminate() == 0
        assert isinstance(answer.exception(), httpx2.HTTPError)
    assert "The server did not end within 9 s and is ended now." in server.log


def test_a_second_ctrl_c_ends_a_server_at_once(innkeeper_server: ServerFactory) -> None:
    code = """
def mine(messages):
    print("began", flush=True)
    time.sleep(600)
"""
    innkeeper_server.write("mine.py", AGENT.format(code=code))
    server = innkeeper_server("mine.py")
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, server.url)
        server.wait_for_log("(began)")
        server.send_signal(signal.SIGINT)
        server.wait_for_refusal()
        server.send_signal(signal.SIGINT)
        assert server.wait() == 130
        assert isinstance(answer.exception(), httpx2.HTTPError)
    assert "Traceback" not in server.log


def test_what_the_user_registered_for_the_end_of_the_process_runs(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", "import atexit\natexit.register(print, 'goodbye', flush=True)\n" + ECHO)
    server = innkeeper_server("mine.py")
    assert server.terminate() == 0
    assert server.log.endswith("goodbye\n")
