"""Clients that want to exhaust a server: they are turned away, and who asks beside them notices nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Iterable

import httpx2
import pytest

from tests.support.hostiles import UPGRADE, Memory, dripped, ended, frame, head, poured, unread, watched
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import IS_FULL, percentile, sized, within

AGENTS = """
from innkeeper import register_agent

async def echo(messages):
    return messages[-1]["content"]

async def long(messages):
    for _ in range(4096):
        yield "x" * 1000

register_agent("echo", echo)
register_agent("long", long)
"""
MEGABYTE = 1024 * 1024
JSON = b"Content-Type: application/json"

# At everyday size everything is allowed a tenth of its time.
SLOW, IDLE, STALLED = (10.0, 15.0, 30.0) if IS_FULL else (1.0, 1.5, 3.0)
AT_ONCE = sized(75, 8)
TIMES = {
    "SLOW_CLIENT_SECONDS": str(SLOW),
    "IDLE_CONNECTION_SECONDS": str(IDLE),
    "STALLED_READER_SECONDS": str(STALLED),
    "RATE_LIMIT_WEBSOCKET": "off",
}

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"), pytest.mark.timeout(240)]


@pytest.fixture
def server(innkeeper_server: ServerFactory) -> ServerProcess:
    innkeeper_server.write("hostile.py", AGENTS)
    return innkeeper_server("hostile.py", env=TIMES)


def a_long_run(server: ServerProcess) -> str:
    """The id of a run whose events nobody can keep in a socket; everything that the server needs has run once, too."""
    with httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        for _ in range(3):
            run_id = client.post("/chat", json={"input": "Hi", "agent_name": "long"}).json()["run_id"]
            assert len(client.get(f"/runs/{run_id}/events").content) > 4 * MEGABYTE
    return str(run_id)


async def test_slow_clients_are_closed_and_others_are_served(server: ServerProcess) -> None:
    run_id = a_long_run(server)
    port, every = server.port, SLOW / 20
    body = head("POST", "/chat", JSON, b"Content-Length: 100000") + b"\r\n{"
    events = head("GET", f"/runs/{run_id}/events") + b"\r\n"
    memory = Memory(server.pid)
    async with watched(port) as took:
        heads, bodies, idle, readers = await asyncio.gather(
            _many(dripped(port, head("GET", "/live"), b"X-A: b\r\n", every=every, timeout=60) for _ in range(AT_ONCE)),
            _many(dripped(port, body, b" ", every=every, timeout=60) for _ in range(AT_ONCE)),
            _many(dripped(port, b"", b"\r\n", every=every, timeout=60) for _ in range(AT_ONCE)),
            _many(unread(port, events, timeout=60) for _ in range(AT_ONCE)),
        )
    grown = memory.grown()
    p99 = percentile(took, 99)
    print(f"heads {max(heads):.1f} s, bodies {max(bodies):.1f} s, idle {max(idle):.1f} s, readers {max(readers):.1f} s")
    print(f"{4 * AT_ONCE} clients: {grown:.1f} MiB more; /health p99 {p99 * 1000:.1f} ms of {len(took)}")
    late = sized(2, 12)  # a busy machine
    assert max(*heads, *bodies) <= SLOW + late
    assert max(idle) <= IDLE + late
    assert max(readers) <= STALLED + 2 * late
    assert grown <= 32
    assert p99 <= within(0.15, 3)


async def _many(clients: Iterable[Awaitable[float]]) -> list[float]:
    return await asyncio.gather(*clients)


async def test_large_requests_are_refused_before_they_are_kept(server: ServerProcess) -> None:
    a_long_run(server)
    memory = Memory(server.pid)
    port = server.port
    chunk = b"100000\r\n" + b" " * MEGABYTE + b"\r\n"
    chunked = head("POST", "/chat", JSON, b"Transfer-Encoding: chunked") + b"\r\n"
    announced = head("POST", "/chat", JSON, b"Content-Length: 1073741824") + b"\r\n"
    fields = b"".join(b"X-%d: y\r\n" % number for number in range(50_000))
    deep = b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    trailers = chunked + b"0\r\nX: "
    async with watched(port) as took:
        sent, answer = await poured(port, chunked, chunk, sized(1024, 64))
        assert _status(answer) == 413 and sent < sized(1024, 64) * MEGABYTE, (sent, answer)
        print(f"of 1 GiB, {sent // MEGABYTE} MiB were taken")
        _, answer = await poured(port, announced, b" " * MEGABYTE, sized(1024, 64))
        assert _status(answer) == 413, answer
        for first, piece, pieces, status in (
            (head("GET", "/live"), fields, 1, 431),
            (head("GET", "/live") + b"X: ", b"y" * MEGABYTE, 100, 431),
            (b"GET /live?", b"y" * MEGABYTE, 100, 414),
            (head("GET", "/ws/chat", UPGRADE.strip()) + b"X: ", b"y" * MEGABYTE, 100, 431),
            (trailers, b"y" * MEGABYTE, 100, 0),
        ):
            sent, answer = await poured(port, first, piece, pieces)
            assert _status(answer) == status or answer == b"", answer[:200]
            assert pieces == 1 or sent <= 32 * MEGABYTE, (first[:20], sent)
        whole = head("POST", "/chat", JSON, b"Content-Length: %d" % len(deep)) + b"\r\n" + deep
        _, answer = await poured(port, whole, b"", 0)
        assert _status(answer) == 400, answer
    grown = memory.grown()
    print(f"large requests: {grown:.1f} MiB more; /health p99 {percentile(took, 99) * 1000:.1f} ms of {len(took)}")
    assert grown <= 32
    assert percentile(took, 99) <= within(0.15, 3)


async def test_floods_of_websockets_are_cut(server: ServerProcess) -> None:
    a_long_run(server)
    port = server.port
    first = head("GET", "/ws/chat", UPGRADE.strip()) + b"\r\n"
    memory = Memory(server.pid)
    floods = {
        "messages": frame(1, b'{"type": "cancel"}') * 5000,
        "turns": frame(1, b'{"input": "Hi"}') * 5000,
        "pings": frame(9, b"") * 5000,
        "fragments": frame(1, b"")[:0] + b"\x01\x80\x01\x02\x03\x04" + b"\x00\x80\x01\x02\x03\x04" * 5000,
        "large": frame(1, b"", announced=MEGABYTE + 1) + b"x" * 65536,
        "unfinished": frame(1, b"", announced=MEGABYTE) + b"x" * 1000,
    }
    async with watched(port) as took:
        ends = await asyncio.gather(
            *(_flooded(port, first, flood) for flood in floods.values() for _ in range(sized(10, 2)))
        )
    grown = memory.grown()
    print(f"floods: {grown:.1f} MiB more; /health p99 {percentile(took, 99) * 1000:.1f} ms of {len(took)}; {set(ends)}")
    assert set(ends) <= {4429, 1009, 1008, 1006}
    assert grown <= 32
    assert percentile(took, 99) <= within(0.15, 3)


async def _flooded(port: int, first: bytes, flood: bytes) -> int:
    """The code with which the server closes the WebSocket on which it is flooded."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(first)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(flood)
        said = b""
        async with asyncio.timeout(SLOW + 30):
            try:
                while piece := await reader.read(65536):
                    said += piece
            except OSError:
                return 1006
    finally:
        await ended(writer)
    for code in (4429, 1009, 1008):
        if code.to_bytes(2) in said:
            return code
    return 1006


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0
