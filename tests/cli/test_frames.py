"""uvicorn's WebSocket protocol with frames that an app has made: sent as they are, and never after a close."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from innkeeper.cli import frames
from innkeeper.cli.frames import EXTENSION, FramesProtocol
from innkeeper.http.control.event_frames import framed, text_of
from tests.support.servers import serve_app

CLOSE = bytes((0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8))
"""A client's close frame, code 1000, masked with nothing."""
Handler = Callable[[Any, Any, Any], Awaitable[None]]


class App:
    """An ASGI app that accepts a WebSocket and does what the test says; `failures` is what came of it."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.failures: list[BaseException] = []
        self.done = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            return
        assert (await receive())["type"] == "websocket.connect"
        try:
            await self._handler(scope, receive, send)
        except OSError as failure:
            self.failures.append(failure)
        finally:
            self.done.set()


async def _tell_extensions(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": " ".join(sorted(scope["extensions"]))})


async def _send_endlessly(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "innkeeper.frames.send", "bytes": framed(b"x" * 100) * 10})
        await asyncio.sleep(0)


def _handshake(url: str) -> socket.socket:
    """A bare client that has been accepted."""
    where = urlsplit(url)
    connection = socket.create_connection((where.hostname, where.port), timeout=10)
    connection.sendall(
        b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return connection


def _rest(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    data = bytearray()
    while part := connection.recv(65536):
        data += part
    return bytes(data)


def _split(data: bytes) -> list[tuple[int, bytes]]:
    """The opcode and the payload of each frame of a server."""
    found, at = [], 0
    while at < len(data):
        length, begin = data[at + 1], at + 2
        if length == 126:
            length, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        found.append((data[at] & 0x0F, data[begin : begin + length]))
        at = begin + length
    return found


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
def test_frames_that_are_written_in_one_piece_arrive_as_messages_of_their_own(size: int) -> None:
    texts = ["first", "ü" * (size // 2) + "x" * (size % 2), "last"]
    assert [text_of(framed(text.encode())) for text in texts] == texts

    async def send_three(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        pieces = b"".join(framed(text.encode()) for text in texts)
        await send({"type": "innkeeper.frames.send", "bytes": pieces})
        await send({"type": "websocket.close", "code": 1000, "reason": "That is all."})

    with serve_app(App(send_three), ws=FramesProtocol) as url, connect(f"ws{url[4:]}", compression=None) as client:
        assert list(client) == texts
        assert client.close_reason == "That is all."


@pytest.mark.parametrize(("compresses", "is_offered"), [(True, False), (False, True)])
def test_frames_are_not_to_be_written_on_a_connection_that_compresses(compresses: bool, is_offered: bool) -> None:
    options: dict[str, Any] = {"ws": FramesProtocol, "ws_per_message_deflate": compresses}
    with serve_app(App(_tell_extensions), **options) as url, connect(f"ws{url[4:]}", compression="deflate") as client:
        assert (EXTENSION in str(client.recv())) is is_offered


def test_nothing_follows_the_answer_to_a_close_that_crosses_with_frames() -> None:
    app = App(_send_endlessly)
    with serve_app(app, ws=FramesProtocol) as url, closing(_handshake(url)) as client:
        assert client.recv(1) == b"\x81"
        client.sendall(CLOSE)
        found = _split(b"\x81" + _rest(client))
        assert {opcode for opcode, _ in found[:-1]} == {1}
        assert found[-1] == (8, b"\x03\xe8")
        assert app.done.wait(10)
    assert len(app.failures) == 1


def test_nothing_follows_a_close_of_the_app(caplog: pytest.LogCaptureFixture) -> None:
    async def go_on(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1012, "reason": "restarting"})
        await send({"type": "innkeeper.frames.send", "bytes": framed(b"too late")})

    app = App(go_on)
    with serve_app(app, ws=FramesProtocol) as url, closing(_handshake(url)) as client:
        assert app.done.wait(10)
        client.sendall(CLOSE)
        assert _split(_rest(client)) == [(8, b"\x03\xf4restarting")]
    assert len(app.failures) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_client_that_reads_nothing_can_be_dropped_with_what_it_never_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_LAST_BYTES_SECONDS", 0.2)
    left = threading.Event()

    async def flood(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        try:
            while True:
                async with asyncio.timeout(0.3):
                    await send({"type": "innkeeper.frames.send", "bytes": framed(b"x" * 60_000)})
        except TimeoutError:
            await send({"type": "innkeeper.frames.drop", "code": 1013, "reason": "too slow"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        left.set()

    app = App(flood)
    with serve_app(app, ws=FramesProtocol) as url, closing(_handshake(url)):
        assert left.wait(10), "the connection ends although its client takes nothing"


def test_client_that_reads_slowly_hears_why_it_is_dropped() -> None:
    async def drop(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "innkeeper.frames.send", "bytes": framed(b"x" * 60_000)})
        await send({"type": "innkeeper.frames.drop", "code": 1013, "reason": "too slow"})

    with serve_app(App(drop), ws=FramesProtocol) as url, connect(f"ws{url[4:]}", compression=None) as client:
        assert len(client.recv()) == 60_000
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert (client.close_code, client.close_reason) == (1013, "too slow")


def test_refused_handshake_is_answered_and_is_no_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 404, "headers": [(b"x-request-id", b"1")]})
        await send({"type": "websocket.http.response.body", "body": b"Nowhere"})

    with serve_app(App(refuse), ws=FramesProtocol) as url, pytest.raises(InvalidStatus) as refused:
        connect(f"ws{url[4:]}").close()
    answer = refused.value.response
    assert (answer.status_code, answer.body, answer.headers["x-request-id"]) == (404, b"Nowhere", "1")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
