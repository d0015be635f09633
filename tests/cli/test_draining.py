"""A server that is told to end loses nobody who got through to it, and says to all others that it leaves."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx2
import pytest

from tests.cli.conftest import ECHO
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import sized, within

QUESTION = json.dumps({"input": "Hello"})
JSON = {"content-type": "application/json"}
REQUEST = (
    f"POST /chat HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    f"content-length: {len(QUESTION)}\r\n\r\n{QUESTION}"
).encode()


def connect(server: ServerProcess) -> http.client.HTTPConnection:
    """A connection that is kept; the server has answered on it once."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.auto_open = 0
    connection.connect()
    assert get(connection, "/ready").status == 200
    return connection


def get(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    return response


def wait_until_leaving(connection: http.client.HTTPConnection) -> None:
    """Returns when the server has noticed that it has been told to end."""
    while get(connection, "/live").headers.get("connection") != "close":
        time.sleep(0.002)


def test_requests_that_wait_in_the_backlog_are_answered(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py")
    server.send_signal(signal.SIGSTOP)
    waiting = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(50)]
    for connection in waiting:
        connection.sendall(REQUEST)
    server.send_signal(signal.SIGTERM)
    server.send_signal(signal.SIGCONT)
    for connection in waiting:
        answer = connection.makefile("rb").read().decode()
        connection.close()
        assert answer.startswith("HTTP/1.1 200 ") and "You said: Hello" in answer
        assert "\r\nconnection: close\r\n" in answer
    assert server.wait() == 0


async def test_who_connects_while_the_server_stops_is_answered_or_refused_and_never_cut_off(
    innkeeper_server: ServerFactory,
) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py")
    answered = 0

    async def knock() -> None:
        nonlocal answered
        while True:
            try:
                answers, requests = await asyncio.open_connection("127.0.0.1", server.port)
            except ConnectionRefusedError:
                return
            with closing(requests):
                requests.write(b"GET /live HTTP/1.0\r\nhost: localhost\r\n\r\n")
                assert b"alive" in await answers.read()
            answered += 1

    async with asyncio.TaskGroup() as knocking:
        for _ in range(16):
            knocking.create_task(knock())
        while answered < 500:
            await asyncio.sleep(0.01)
        server.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.wait) == 0


def test_ready_says_at_once_that_the_server_leaves_while_it_still_answers(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py")
    rounds = 1
    while not answers_while_it_leaves(server):
        assert rounds < 5, "a busy machine may be late now and then, but not always"
        server.start()
        rounds += 1


def answers_while_it_leaves(server: ServerProcess) -> bool:
    """Whether it does for as long as that, once it has been told to end."""
    with closing(connect(server)) as first, closing(connect(server)) as second, closing(connect(server)) as third:
        server.send_signal(signal.SIGTERM)
        try:
            wait_until_leaving(first)
            ready = get(second, "/ready")
            assert (ready.status, ready.headers["connection"]) == (503, "close")
            time.sleep(0.25)  # of the half second in which a client may not know it yet
            third.request("POST", "/chat", QUESTION, JSON)
            answer = third.getresponse()
        except OSError:
            assert server.wait() == 0
            return False
        assert json.load(answer)["output"] == "You said: Hello"
        assert answer.headers["connection"] == "close"
    assert server.wait() == 0
    return True


WAITING = """
import asyncio
from pathlib import Path

async def slow(messages):
    print("began", flush=True)
    while not Path("go on").exists():
        await asyncio.sleep(0.02)
    return "done"
"""


def test_the_port_is_free_for_the_next_server_while_runs_are_drained(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", WAITING)
    server = innkeeper_server("mine.py:slow")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(httpx2.post, f"{server.url}/chat", json={"input": "Hello"}, timeout=20, trust_env=False)
        server.wait_for_log("(began)")
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as idle:
            server.send_signal(signal.SIGTERM)
            server.wait_for_refusal()
            assert idle.recv(1) == b"" and not asked.done()
        with socket.create_server(("127.0.0.1", server.port)):
            innkeeper_server.write("go on", "")
            answer = asked.result()
    assert answer.json()["output"] == "done"
    assert answer.headers["connection"] == "close"
    assert server.wait() == 0


def test_connections_on_which_nobody_asks_are_closed_after_a_moment(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py")
    with closing(connect(server)) as kept, socket.create_connection(("127.0.0.1", server.port), timeout=20) as silent:
        assert kept.sock is not None
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert kept.sock.recv(1) == silent.recv(1) == b""
        assert 0.4 < time.monotonic() - began < within(2, 15)
    assert server.wait() == 0


def test_a_server_to_which_nobody_is_connected_ends_without_waiting(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py")
    took = [ended(server)]
    while took[-1] >= 0.5 and len(took) < 5:  # which a busy machine may need now and then, and who waits, always
        server.start()
        took.append(ended(server))
    assert min(took) < 0.5


def ended(server: ServerProcess) -> float:
    """The seconds that it needs for that."""
    began = time.monotonic()
    assert server.terminate() == 0
    return time.monotonic() - began


FORKING = """
import os, time

def forking(messages):
    if os.fork() == 0:
        time.sleep(600)
    return "forked"
"""


def test_a_process_that_an_agent_forked_does_not_keep_the_port(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", FORKING)
    server = innkeeper_server("mine.py:forking")
    answer = httpx2.post(f"{server.url}/chat", json={"input": "Hello"}, timeout=20, trust_env=False)
    assert answer.json()["output"] == "forked"
    os.kill(server.pid, signal.SIGKILL)
    server.wait_for_refusal()
    server.kill()


STREAMS = sized(20, 5)
ENDLESS = """
import asyncio, time
from innkeeper import register_agent

async def endless(messages):
    print("began", flush=True)
    for number in range(10**9):
        yield f"{number} "
        await asyncio.sleep(0.05)

def stuck(messages):
    print("began", flush=True)
    time.sleep(600)

register_agent("endless", endless)
register_agent("stuck", stuck)
"""


@pytest.mark.parametrize("drain", ["", "0.5"], ids=["as shipped", "short"])
def test_endless_streams_and_an_agent_that_never_returns_do_not_keep_the_server(
    innkeeper_server: ServerFactory, drain: str
) -> None:
    innkeeper_server.write("mine.py", ENDLESS)
    server = innkeeper_server("mine.py", env={"INNKEEPER_DRAIN_SECONDS": drain} if drain else {})

    def watch(_: int) -> str:
        body = {"input": "Hello", "agent_name": "endless"}
        return httpx2.post(f"{server.url}/chat/stream", json=body, timeout=60, trust_env=False).text

    with ThreadPoolExecutor(STREAMS + 1) as pool:
        streams = [pool.submit(watch, number) for number in range(STREAMS)]
        asked = {"input": "Hello", "agent_name": "stuck"}
        answer = pool.submit(httpx2.post, f"{server.url}/chat", json=asked, timeout=60, trust_env=False)
        server.wait_for_log(rf"(?:began(?s:.*?)){{{STREAMS}}}(began)")
        began = time.monotonic()
        assert server.terminate(timeout=60) == 0
        assert time.monotonic() - began < within(25, 40)
        assert all(stream.result().endswith("data: [DONE]\n\n") for stream in streams)
        assert answer.result().status_code >= 500
