"""Bounds where the server is not ours: what can be done about slow and loud clients from inside an app."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.http.bounds import Bounds, Rate
from tests.support.hostiles import UPGRADE, head
from tests.support.servers import serve_app

SETTINGS = {
    "slow_client_seconds": 1.5,
    "max_body_bytes": 2000,
    "max_chat_body_bytes": 4000,
    "max_header_bytes": 2000,
    "max_messages_per_second": 5,
}
JSON = b"Content-Type: application/json"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path_factory.mktemp("bounds"), **SETTINGS}))
    app.agent("echo")(lambda messages: messages[-1]["content"])
    with serve_app(app) as url:
        yield url


def raw(url: str, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as client:
        client.sendall(request)
        return client.recv(65536)


def test_bodies_are_bounded_by_the_settings(url: str) -> None:
    for path, size in (("/sessions", 2000), ("/chat", 4000)):
        for content in (b" " * (size + 1), iter([b" " * size, b" "])):
            answer = httpx2.post(f"{url}{path}", content=content, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert httpx2.post(f"{url}/chat", json={"input": "y" * 3900}).status_code == 200


@pytest.mark.parametrize("path", ["/live", "/chat", "/nothing", "/echo"])
def test_headers_are_bounded_on_every_path(url: str, path: str) -> None:
    for headers, told in (
        ({"x": "y" * 2000}, (431, "HEADERS_TOO_LARGE")),
        ({f"x-{number}": "" for number in range(100)}, (431, "HEADERS_TOO_LARGE")),
    ):
        answer = httpx2.get(f"{url}{path}", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == told
    answer = httpx2.get(f"{url}{path}?{'y' * 8192}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (414, "URI_TOO_LONG")


@pytest.mark.parametrize("path", ["/ws/chat", "/api/sessions/s/events/stream", "/nothing"])
def test_a_websockets_head_is_bounded_too(url: str, path: str) -> None:
    answer = raw(url, head("GET", path, UPGRADE.strip(), b"X: " + b"y" * 2000) + b"\r\n")
    assert answer.split(b" ")[1] in (b"403", b"431")


def test_body_that_stops_coming_is_given_up(url: str) -> None:
    answer = raw(url, head("POST", "/chat", JSON, b"Content-Length: 100") + b'\r\n{"input')
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_websocket_on_which_too_much_is_said_is_closed(url: str) -> None:
    with connect(f"ws{url[4:]}/ws/chat") as client, pytest.raises(ConnectionClosed) as closed:
        for _ in range(20):  # of which the last may come too late
            client.send('{"type": "cancel"}')
        while True:
            json.loads(client.recv(timeout=10))
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4429, "More than 5 messages a second.")


def test_a_rate_is_a_bucket_that_fills_again() -> None:
    now = 100.0
    rate = Rate(2, lambda: now)
    assert [rate.is_exceeded() for _ in range(3)] == [False, False, True]
    now += 0.5
    assert [rate.is_exceeded() for _ in range(2)] == [False, True]
    now += 60
    assert [rate.is_exceeded() for _ in range(3)] == [False, False, True]


def test_settings_reach_the_bounds(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, **SETTINGS}))
    assert app.state.innkeeper.bounds == Bounds(
        body_bytes=2000, chat_body_bytes=4000, header_bytes=2000, slow_seconds=1.5, messages_per_second=5
    )
