"""Scripted servers: HTTP on bare sockets, where a test writes every byte of the answers and may stop at any of them."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived; `at` is when, on the monotonic clock."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Told:
    """What is sent before the connection ends, with a reset if `resets`; it stays open while `holds`."""

    data: bytes
    resets: bool = False
    holds: float = 0.0


Script = Callable[[Asked], Told]


@dataclass(slots=True)
class ScriptedServer:
    url: str
    seen: list[Asked] = field(default_factory=list)


def answer(status: int, body: Any = None, headers: Json | None = None) -> Told:
    """A whole answer in JSON."""
    return Told(head(status, {"content-type": "application/json", **(headers or {})}) + json.dumps(body or {}).encode())


def failure(status: int, headers: Json | None = None, **facts: Any) -> Told:
    """An answer with the body that errors of ours have."""
    return answer(status, {"error": {"message": "No.", "code": "SOME", "type": None, "param": None, **facts}}, headers)


def head(status: int, headers: Json) -> bytes:
    """The end of the connection is that of the body, unless the headers say more."""
    lines = [f"HTTP/1.1 {status} -", "connection: close", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def in_turn(*told: Told) -> Script:
    """One answer after the other; the last one for good."""
    left = list(told)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def scripted_server(script: Script) -> Iterator[ScriptedServer]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = ScriptedServer(f"http://127.0.0.1:{listener.getsockname()[1]}")
    threading.Thread(target=_serve, args=(listener, server, script), daemon=True).start()
    try:
        yield server
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _serve(listener: socket.socket, server: ScriptedServer, script: Script) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, suppress(OSError, ValueError):
            _converse(connection, server, script)


def _converse(connection: socket.socket, server: ScriptedServer, script: Script) -> None:
    asked = _asked(connection)
    server.seen.append(asked)
    told = script(asked)
    connection.sendall(told.data)
    if told.holds:
        connection.settimeout(told.holds)
        with suppress(TimeoutError):
            connection.recv(1)  # until the client has had enough
    if told.resets:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _asked(connection: socket.socket) -> Asked:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(connection)
    top, _, body = data.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += _received(connection)
    method, target, _ = first.split(" ")
    return Asked(method, target, headers, body, time.monotonic())


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionResetError("the client has left")
    return data
