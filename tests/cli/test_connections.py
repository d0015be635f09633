"""Connections of a served process: what clients may owe it, and for how long."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.support.hostiles import UPGRADE, dripped, head
from tests.support.servers import ServerFactory, ServerProcess

AGENTS = """
import asyncio
from innkeeper import register_agent

async def echo(messages):
    return messages[-1]["content"]

async def quiet(messages):
    yield "one "
    await asyncio.sleep(2.5)
    yield "two"

async def long(messages):
    for _ in range(1500):
        yield "x" * 1000

for agent in (echo, quiet, long):
    register_agent(agent.__name__, agent)
"""
SLOW, IDLE, STALLED = 1.0, 1.5, 1.5
JSON = b"Content-Type: application/json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    factory = ServerFactory(tmp_path_factory.mktemp("connections"))
    factory.write("inn.py", AGENTS)
    times = {
        "SLOW_CLIENT_SECONDS": str(SLOW),
        "IDLE_CONNECTION_SECONDS": str(IDLE),
        "STALLED_READER_SECONDS": str(STALLED),
    }
    yield factory("inn.py", env=times)
    factory.close()


def said(server: ServerProcess, *pieces: bytes, every: float = 0.0) -> bytes:
    """All that the server answers to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        for piece in pieces:
            client.sendall(piece)
            time.sleep(every)
        answer = b""
        try:
            while piece := client.recv(65536):
                answer += piece
        except OSError:
            pass
        return answer


def facts(answer: bytes) -> tuple[int, str]:
    start, _, rest = answer.partition(b"\r\n\r\n")
    body = json.loads(rest)
    assert body["request_id"], body
    assert b"\nserver:" not in start.lower()
    return int(start.split(b" ", 2)[1]), body["error"]["code"]


FIELDS = tuple(b"X-%d: y" % number for number in range(101))


@pytest.mark.parametrize(
    ("request_bytes", "told"),
    [
        (head("GET", f"/live?{'y' * 8192}", b"Connection: close"), (414, "URI_TOO_LONG")),
        (head("GET", "/live", b"Connection: close", *FIELDS), (431, "HEADERS_TOO_LARGE")),
        (head("GET", "/live", b"Connection: close", b"X: " + b"y" * 16384), (431, "HEADERS_TOO_LARGE")),
        (head("GET", "/nothing", b"Connection: close", *FIELDS), (431, "HEADERS_TOO_LARGE")),
        (head("GET", "/live", b"X: " + b"y" * 1_000_000), (431, "HEADERS_TOO_LARGE")),
        (head("GET", f"/live?{'y' * 1_000_000}"), (414, "URI_TOO_LONG")),
        (head("GET", f"/ws/chat?{'y' * 8192}", UPGRADE.strip()), (414, "URI_TOO_LONG")),
        (head("GET", "/ws/chat", UPGRADE.strip(), *FIELDS), (431, "HEADERS_TOO_LARGE")),
        (head("GET", "/ws/chat", UPGRADE.strip(), b"X: " + b"y" * 9000), (431, "HEADERS_TOO_LARGE")),
        (head("POST", "/chat", JSON, b"Content-Length: 2", b"Content-Length: 3"), (400, "VALIDATION_ERROR")),
        (
            head("POST", "/chat", JSON, b"Content-Length: 5", b"Transfer-Encoding: chunked"),
            (400, "VALIDATION_ERROR"),
        ),
        (head("POST", "/ws/chat", UPGRADE.strip()), (400, "VALIDATION_ERROR")),
        (head("GET", "/ws/chat", UPGRADE.strip(), b"Content-Length: 10"), (400, "VALIDATION_ERROR")),
        (head("GET", "/ws/chat", UPGRADE.strip(), b"Transfer-Encoding: chunked"), (400, "VALIDATION_ERROR")),
        (b"\x16\x03\x01\x02\x00\x01\x00", (400, "VALIDATION_ERROR")),
    ],
    ids=lambda value: value[:18].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_heads_beyond_the_bounds_are_refused_in_the_one_body(
    server: ServerProcess, request_bytes: bytes, told: tuple[int, str]
) -> None:
    assert facts(said(server, request_bytes + b"\r\n")) == told


def test_heads_within_the_bounds_are_taken(server: ServerProcess) -> None:
    within = head("GET", f"/live?{'y' * 8000}", b"Connection: close", *FIELDS[:90], b"X: " + b"y" * 15_000)
    assert b" 200 OK\r\n" in said(server, within + b"\r\n")


async def test_who_keeps_the_server_waiting_is_let_go(server: ServerProcess) -> None:
    body = head("POST", "/chat", JSON, b"Content-Length: 100000") + b"\r\n{"
    heads, bodies, gaps, idle, silent = await asyncio.gather(
        dripped(server.port, head("GET", "/live"), b"X: y\r\n", every=0.1, timeout=30),
        dripped(server.port, body, b" ", every=0.1, timeout=30),
        dripped(server.port, body, b"", every=0.1, timeout=30),
        dripped(server.port, b"", b"\r\n", every=0.1, timeout=30),
        dripped(server.port, head("GET", "/live") + b"\r\n", b"", every=0.1, timeout=30),
    )
    assert min(heads, bodies, gaps) >= SLOW * 0.6
    assert min(idle, silent) >= IDLE * 0.6


def test_body_that_comes_too_slowly_is_told_so(server: ServerProcess) -> None:
    answer = said(server, head("POST", "/chat", JSON, b"Content-Length: 100") + b"\r\n{")
    assert facts(answer) == (408, "REQUEST_TIMEOUT")


def test_slow_body_that_goes_on_coming_is_taken(server: ServerProcess) -> None:
    body = b'{"input": "' + b"y" * 12_000 + b'"}'
    pieces = [body[place : place + 2000] for place in range(0, len(body), 2000)]
    first = head("POST", "/chat", JSON, b"Connection: close", b"Content-Length: %d" % len(body)) + b"\r\n"
    assert b" 200 OK\r\n" in said(server, first, *pieces, every=0.35)


def test_who_waits_for_a_quiet_agent_owes_nothing(server: ServerProcess) -> None:
    with httpx2.Client(base_url=server.url, timeout=20, trust_env=False) as client:
        assert client.post("/chat", json={"input": "Hi", "agent_name": "quiet"}).json()["output"] == "one two"
        streamed = client.post("/chat/stream", json={"input": "Hi", "agent_name": "quiet"}).text
    assert streamed.endswith("data: [DONE]\n\n")


def test_slow_reader_is_not_cut_as_long_as_it_reads(server: ServerProcess) -> None:
    with httpx2.Client(base_url=server.url, timeout=20, trust_env=False) as client:
        run_id = client.post("/chat", json={"input": "Hi", "agent_name": "long"}).json()["run_id"]
    taken = b""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", server.port))
        client.sendall(head("GET", f"/runs/{run_id}/events") + b"\r\n")
        began = time.monotonic()
        while not taken.endswith(b"0\r\n\r\n"):
            if time.monotonic() - began < 3 * STALLED:
                time.sleep(0.05)
            taken += client.recv(65536)
    assert b"data: [DONE]" in taken


def test_trailers_do_not_become_headers(server: ServerProcess) -> None:
    body = b'f\r\n{"input": "Hi"}\r\n0\r\nX-Request-ID: from-a-trailer\r\n\r\n'
    first = head("POST", "/chat", JSON, b"Connection: close", b"Transfer-Encoding: chunked")
    answer = said(server, first + b"\r\n" + body)
    assert b" 200 OK\r\n" in answer
    assert b"from-a-trailer" not in answer


H2C = (JSON, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
"""As some clients send with each of their requests, who speak HTTP/2 if they can."""


@pytest.mark.parametrize("every", [0.0, 0.1])
def test_body_of_a_request_for_another_protocol_is_a_body(server: ServerProcess, every: float) -> None:
    hidden = head("GET", "/live", b"X-Request-ID: from-a-body") + b"\r\n"
    body = json.dumps({"input": "Hi"}).encode() + b" " * 100
    for inside, status in ((body, b" 200 OK\r\n"), (hidden, b" 400 Bad Request\r\n")):
        asked = head("POST", "/chat", *H2C, b"Content-Length: %d" % len(inside)) + b"\r\n"
        then = head("GET", "/live", b"Connection: close") + b"\r\n"
        answer = said(server, asked, inside[:40], inside[40:] + asked, inside + then, every=every)
        assert answer.count(status) == 2 + (b"200" in status), answer
        assert answer.count(b"HTTP/1.1 ") == 3
        assert b"from-a-body" not in answer


def test_trailers_of_a_request_for_another_protocol_stay_trailers(server: ServerProcess) -> None:
    body = b'f\r\n{"input": "Hi"}\r\n0\r\nX-Request-ID: from-a-trailer\r\n' + UPGRADE + b"\r\n"
    asked = head("POST", "/chat", *H2C, b"Transfer-Encoding: chunked") + b"\r\n"
    answer = said(server, asked + body + head("GET", "/live", b"Connection: close") + b"\r\n")
    assert answer.count(b" 200 OK\r\n") == 2
    assert b"from-a-trailer" not in answer
    assert b"101 Switching" not in answer


@pytest.mark.parametrize("target", ["localhost:80", "/live"])
@pytest.mark.parametrize("fields", [(), (b"Connection: Upgrade", b"Upgrade: h2c")], ids=["plain", "h2c"])
def test_nothing_is_connected_to(server: ServerProcess, target: str, fields: tuple[bytes, ...]) -> None:
    assert facts(said(server, head("CONNECT", target, *fields) + b"\r\n")) == (400, "VALIDATION_ERROR")


def test_websocket_waits_for_the_answer_to_what_is_ahead_of_it(server: ServerProcess) -> None:
    body = b'{"input": "Hi"}'
    chat = head("POST", "/chat", JSON, b"Content-Length: %d" % len(body)) + b"\r\n" + body
    answer = said(server, chat + head("GET", "/ws/chat", UPGRADE.strip()) + b"\r\n")
    assert b"101 Switching" not in answer


def test_requests_in_one_piece_are_answered_one_by_one(server: ServerProcess) -> None:
    body = b'{"input": "Hi"}'
    chat = head("POST", "/chat", JSON, b"Content-Length: %d" % len(body)) + b"\r\n" + body
    assert said(server, chat * 2 + head("GET", "/live", b"Connection: close") + b"\r\n").count(b" 200 OK\r\n") == 3


def test_client_that_asks_first_is_told_to_go_on(server: ServerProcess) -> None:
    body = b'{"input": "Hi"}'
    first = head("POST", "/chat", JSON, b"Connection: close", b"Expect: 100-continue", b"Content-Length: 15") + b"\r\n"
    answer = said(server, first, body, every=0.2)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert b" 200 OK\r\n" in answer
