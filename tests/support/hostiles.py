"""Hostile clients: slow ones, large ones, and those that never stop, at the level of bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
_MASK = b"\x01\x02\x03\x04"


def head(method: str, path: str, *fields: bytes) -> bytes:
    """A request's head, without the empty line behind it."""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + b"".join(one + b"\r\n" for one in fields)


def frame(opcode: int, payload: bytes, *, announced: int | None = None) -> bytes:
    """A client's WebSocket frame; `announced` may be more than there is."""
    size = len(payload) if announced is None else announced
    length = (
        struct.pack("!BB", 0x80 | opcode, 0x80 | size) if size < 126 else struct.pack("!BBQ", 0x80 | opcode, 255, size)
    )
    masked = bytes(byte ^ _MASK[place % 4] for place, byte in enumerate(payload))
    return length + _MASK + masked


async def dripped(port: int, first: bytes, drops: bytes, *, every: float, timeout: float) -> float:
    """Say `first`, then `drops` one by one for ever; how many seconds later the server was gone."""
    began = time.monotonic()  # the server may know of us before we know of that
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def drip() -> None:
        writer.write(first)
        place = 0
        while drops:
            await asyncio.sleep(every)
            writer.write(drops[place % len(drops)].to_bytes())
            place += 1

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(timeout):
            with contextlib.suppress(OSError):
                while await reader.read(65536):
                    pass
        return time.monotonic() - began
    finally:
        dripping.cancel()
        await ended(writer)


async def unread(port: int, first: bytes, *, timeout: float) -> float:
    """Ask for something and never take it; how many seconds later the server was gone."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, first)
        began = time.monotonic()
        while time.monotonic() - began < timeout:
            if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return time.monotonic() - began
            await asyncio.sleep(0.05)  # what is to be seen makes no event without a read
    raise TimeoutError


async def poured(port: int, first: bytes, piece: bytes, pieces: int, *, timeout: float = 60) -> tuple[int, bytes]:
    """Send `first` and so many pieces, until the server says something; how many bytes it took, and what it said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answering = asyncio.create_task(reader.read(65536))
    sent = 0
    try:
        async with asyncio.timeout(timeout):
            with contextlib.suppress(OSError):
                writer.write(first)
                for _ in range(pieces):
                    writer.write(piece)
                    await writer.drain()
                    sent += len(piece)
                    await asyncio.sleep(0)
                    if answering.done():
                        break
            try:
                return sent, await answering
            except OSError:
                return sent, b""
    finally:
        answering.cancel()
        await ended(writer)


class Memory:
    """What a process holds more at its most than it did when this was made, in MiB."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._folder.joinpath("clear_refs").write_text("5")  # from here on a new peak is kept
        self._before = self._peak()

    def grown(self) -> float:
        return self._peak() - self._before

    def _peak(self) -> float:
        lines = self._folder.joinpath("status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024


@asynccontextmanager
async def watched(port: int) -> AsyncIterator[list[float]]:
    """Meanwhile, how long `/health` takes for somebody else."""
    took: list[float] = []

    async def watch() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                began = time.perf_counter()
                writer.write(head("GET", "/health") + b"\r\n")
                await reader.readuntil(b"\r\n\r\n")
                await reader.readuntil(b"}")
                took.append(time.perf_counter() - began)
                await asyncio.sleep(0.02)
        finally:
            await ended(writer)

    watching = asyncio.create_task(watch())
    try:
        yield took
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def ended(writer: asyncio.StreamWriter) -> None:
    """Let go of a connection, and of what it has not sent."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
