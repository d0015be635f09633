"""The watchers: a process of its own that subscribes many times to one session's events and checks what each is sent.

It reads no more of a WebSocket than a server's small text frames, so that it leaves the machine to the server. It says
`ready` once all are subscribed, and at the end what they saw, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import time
from functools import partial
from typing import cast

import uvloop

_SEQUENCE = re.compile(rb'"sequence":(\d+)')
_STAMP = re.compile(rb'"stamp":(\d+)')
_SAMPLED = 20


class Audience:
    """What all watchers share: how many events each is to see, and what went wrong first."""

    def __init__(self, count: int, expected: int) -> None:
        self.expected = expected
        self.missing = count
        self.connecting = count
        self.delays: list[float] = []
        self.failure: str | None = None
        self.ready = asyncio.Event()
        self.done = asyncio.Event()

    def fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self.ready.set()
        self.done.set()


class Watcher(asyncio.Protocol):
    """One subscriber."""

    def __init__(self, audience: Audience, request: bytes, *, is_sampled: bool) -> None:
        self._audience = audience
        self._request = request
        self._is_sampled = is_sampled
        self._rest = b""
        self._in_head = True
        self.seen = 0
        self.reads = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.seen < self._audience.expected:
            self._audience.fail(f"The server closed a connection after {self.seen} events ({exc}).")

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if self._in_head:
            head, blank, data = data.partition(b"\r\n\r\n")
            if not blank:
                self._rest = head
                return
            self._begin(head)
        self.reads += 1
        end, frames = whole_frames(data)
        self._rest = data[end:]
        if frames:
            self._check(data[:end], frames)

    def _begin(self, head: bytes) -> None:
        self._in_head = False
        if not head.startswith(b"HTTP/1.1 101 "):
            self._audience.fail(head.decode(errors="replace"))
        self._audience.connecting -= 1
        if not self._audience.connecting:
            self._audience.ready.set()

    def _check(self, data: bytes, frames: int) -> None:
        found = list(map(int, _SEQUENCE.findall(data)))
        if found != list(range(self.seen + 1, self.seen + frames + 1)):
            self._audience.fail(f"After event {self.seen} came {frames} frames with events {found}.")
        self.seen += frames
        if self._is_sampled:
            now = time.monotonic_ns()
            self._audience.delays += [(now - int(stamp)) / 1e6 for stamp in _STAMP.findall(data)]
        if self.seen == self._audience.expected:
            self._audience.missing -= 1
            if not self._audience.missing:
                self._audience.done.set()


def whole_frames(data: bytes) -> tuple[int, int]:
    """Where the last whole text frame in `data` ends, and how many there are."""
    at = count = 0
    while len(data) - at >= 4:
        length = data[at + 1]
        begin = at + 2
        if length == 126:
            length, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        if data[at] != 0x81 or length == 127:
            raise ValueError(f"not a small text frame: {data[at : at + 10]!r}")
        if begin + length > len(data):
            break
        at, count = begin + length, count + 1
    return at, count


def handshake(path: str) -> bytes:
    """The request that opens a WebSocket; the key is RFC 6455's own example."""
    return (
        f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    ).encode()


def _same(watcher: Watcher) -> Watcher:
    return watcher


async def watch(port: int, path: str, count: int, expected: int, seconds: float) -> dict[str, object]:
    """Have `count` watchers see `expected` events each, for at most so many seconds."""
    loop = asyncio.get_running_loop()
    audience = Audience(count, expected)
    request = handshake(path)
    watchers = [Watcher(audience, request, is_sampled=index < _SAMPLED) for index in range(count)]
    for first in range(0, count, 50):
        opening = [
            loop.create_connection(partial(_same, one), "127.0.0.1", port) for one in watchers[first : first + 50]
        ]
        await asyncio.gather(*opening)
    async with asyncio.timeout(60):
        await audience.ready.wait()
    print("ready", flush=True)
    try:
        async with asyncio.timeout(seconds):
            await audience.done.wait()
    except TimeoutError:
        audience.fail(f"{audience.missing} of {count} watchers had not seen all {expected} events in time.")
    delays = sorted(audience.delays) or [0.0]
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "failure": audience.failure,
        "received": sum(one.seen for one in watchers),
        "reads": sum(one.reads for one in watchers),
        "p50": delays[len(delays) // 2],
        "p99": delays[len(delays) * 99 // 100],
        "cpu_seconds": used.ru_utime + used.ru_stime,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.watchers")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--expected", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    told = uvloop.run(watch(options.port, options.path, options.count, options.expected, options.seconds))
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
