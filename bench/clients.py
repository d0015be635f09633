"""One client with one connection, for what is measured one request at a time: latencies, not throughput."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any

from bench.load import LAST_CHUNK, request_bytes

CHAT = "/v1/chat/completions"
_STAMP = re.compile(rb'"content":\s*"(\d+)"')


def chat_body(agent: str, *, stream: bool = False, session_id: str | None = None) -> str:
    body: dict[str, Any] = {"model": agent, "messages": [{"role": "user", "content": "Hello"}]}
    if stream:
        body["stream"] = True
    if session_id is not None:
        body["session_id"] = session_id
    return json.dumps(body)


class Client:
    """Sends one request after another over a connection that stays open."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def post(self, path: str, body: str) -> bytes:
        """The body of the answer, chunks joined. Raises: RuntimeError unless the status is 200."""
        self._socket.sendall(request_bytes(path, body))
        answer = b""
        while not _is_complete(answer):
            answer += self._receive()
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"POST {path} answered:\n{answer.decode(errors='replace')}")
        return _joined(rest) if b"transfer-encoding: chunked" in head.lower() else rest

    def timed_post(self, path: str, body: str) -> float:
        """Milliseconds from the request to the whole answer."""
        began = time.monotonic_ns()
        self.post(path, body)
        return (time.monotonic_ns() - began) / 1e6

    def first_token(self, path: str, body: str) -> tuple[float, float]:
        """Milliseconds to the first content frame: since the request, and since the agent spoke it."""
        began = time.monotonic_ns()
        self._socket.sendall(request_bytes(path, body))
        answer = b""
        while not (stamp := _STAMP.search(answer)):
            answer += self._receive()
        now = time.monotonic_ns()
        while not _is_complete(answer):
            answer += self._receive()
        return (now - began) / 1e6, (now - int(stamp[1])) / 1e6

    def _receive(self) -> bytes:
        data = self._socket.recv(262144)
        if not data:
            raise RuntimeError("The server closed the connection.")
        return data


def _is_complete(answer: bytes) -> bool:
    head, end, rest = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    length = re.search(rb"content-length: (\d+)", head.lower())
    return len(rest) >= int(length[1]) if length else rest.endswith(LAST_CHUNK)


def _joined(chunked: bytes) -> bytes:
    parts: list[bytes] = []
    while True:
        size, _, chunked = chunked.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return b"".join(parts)
        parts.append(chunked[:length])
        chunked = chunked[length + 2 :]
