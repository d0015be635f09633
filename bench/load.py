"""The load: a process of its own that keeps a number of keep-alive connections busy and counts what comes back.

It reads as little of HTTP/1.1 as it must, so that it stays well ahead of the servers; `load_cpu` in its result tells
by how much. Requests that are under way at the end are waited for and not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from typing import cast

import uvloop

FRAME = b"data: "
LAST_CHUNK = b"0\r\n\r\n"
# Long enough to find a frame or the end across two reads, too short to count a frame twice.
TAIL = len(FRAME) - 1
DRAIN = 20.0


class Load:
    """What all connections share. `frames` of a response are checked against `expected`, where that is given."""

    def __init__(self, request: bytes, expected: int | None) -> None:
        self.request = request
        self.expected = expected
        self.is_over = False
        self.busy = 0
        self.requests = 0
        self.frames = 0
        self.latencies: list[int] = []
        self.total = 0
        self.failure: str | None = None
        self.drained = asyncio.Event()

    def completed(self, began: int) -> bool:
        """Count a response; whether there is to be another."""
        self.total += 1
        if not self.is_over:
            self.requests += 1
            self.latencies.append(time.monotonic_ns() - began)
            return True
        self.leave()
        return False

    def leave(self) -> None:
        self.busy -= 1
        if not self.busy:
            self.drained.set()

    def fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self.is_over = True
        self.drained.set()


class Connection(asyncio.Protocol):
    """One client: sends a request, reads the response to its end, sends the next."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._is_done = False
        self._in_head = True
        self._tail = b""
        self._left: int | None = None
        self._frames = 0
        self._began = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._load.busy += 1
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_done:
            self._load.fail(f"The server closed a connection ({exc}).")

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            data = self._tail + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._tail = data
                return
            self._read_head(data[:end])
            data = data[end + 4 :]
            self._tail = b""
        if self._left is None:
            self._read_chunks(data)
        else:
            self._left -= len(data)
            if self._left <= 0:
                self._complete()

    def _send(self) -> None:
        self._in_head = True
        self._tail = b""
        self._left = None
        self._frames = 0
        self._began = time.monotonic_ns()
        self._transport.write(self._load.request)

    def _read_head(self, head: bytes) -> None:
        self._in_head = False
        if not head.startswith(b"HTTP/1.1 200 "):
            self._load.fail(head.decode(errors="replace"))
        head = head.lower() + b"\r\n"
        at = head.find(b"content-length: ")
        if at >= 0:
            self._left = int(head[at + 16 : head.index(b"\r\n", at)])

    def _read_chunks(self, data: bytes) -> None:
        window = self._tail + data
        frames = window.count(FRAME)
        self._frames += frames
        if not self._load.is_over:
            self._load.frames += frames
        if window.endswith(LAST_CHUNK):
            if self._load.expected not in (None, self._frames):
                self._load.fail(f"A stream had {self._frames} frames instead of {self._load.expected}.")
            self._complete()
        else:
            self._tail = window[-TAIL:]

    def _complete(self) -> None:
        if self._load.completed(self._began):
            self._send()
        else:
            self._is_done = True
            self._transport.close()


async def run(load: Load, port: int, connections: int, seconds: float) -> dict[str, float | int | str | None]:
    loop = asyncio.get_running_loop()
    began, cpu = time.monotonic(), time.process_time()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", port)
    await asyncio.sleep(seconds - (time.monotonic() - began))
    elapsed, cpu = time.monotonic() - began, time.process_time() - cpu
    load.is_over = True
    try:
        await asyncio.wait_for(load.drained.wait(), DRAIN)
    except TimeoutError:
        load.fail(f"{load.busy} requests were still unanswered {DRAIN:.0f} s after the last one was sent.")
    return {
        "requests_per_second": load.requests / elapsed,
        "frames_per_second": load.frames / elapsed,
        "total": load.total,
        "load_cpu": cpu / elapsed,
        "failure": load.failure,
        **_percentiles(load.latencies),
    }


def _percentiles(latencies: list[int]) -> dict[str, float]:
    """Milliseconds."""
    if len(latencies) < 2:
        return {"p50": 0.0, "p99": 0.0}
    hundredths = statistics.quantiles(latencies, n=100)
    return {"p50": hundredths[49] / 1e6, "p99": hundredths[98] / 1e6}


def request_bytes(path: str, body: str, headers: Sequence[str] = ()) -> bytes:
    """A POST; without a body, a GET."""
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", "host: 127.0.0.1", *headers]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body.encode())}"]
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode()


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep a server busy and count its answers.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", default="{}")
    parser.add_argument("--header", action="append", default=[], help="`name: value`; any number of them")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--frames", type=int, help="how many frames each stream must have")
    options = parser.parse_args()

    async def loaded() -> dict[str, float | int | str | None]:
        load = Load(request_bytes(options.path, options.body, options.header), options.frames)
        return await run(load, options.port, options.connections, options.seconds)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(loaded())))


if __name__ == "__main__":
    main()
