"""A receiver of webhooks: a real HTTP/1.1 server on the test's own loop, that answers as badly as it is told to.

    async with running_receiver() as receiver:
        receiver.answers += [status(503), silence]
        ...  # send to receiver.url
        request = await receiver.next()

Each request takes the next answer; when none is left, it is `status(204)`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """A request as it arrived; header names are in lower case."""

    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Receiver:
    """The receiver as the test sees it. `connections` counts those that were ever made, `hung_up` is set by leaving."""

    port: int = 0
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    answers: deque[Answer] = field(default_factory=deque)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    _arrived: asyncio.Queue[Request] = field(default_factory=asyncio.Queue)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/hook"

    async def next(self) -> Request:
        """The next request that this has not given yet."""
        async with asyncio.timeout(30):
            return await self._arrived.get()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while not writer.is_closing():
                request = await _read(reader)
                self.requests.append(request)
                self._arrived.put_nowait(request)
                answer = self.answers.popleft() if self.answers else status(204)
                await answer(writer)
        self.hung_up.set()
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(head[0].split(" ")[1], headers, body)


def status(code: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """An answer as it should be."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} Said", *(f"{name}: {value}" for name, value in (headers or {}).items())]
        if code != 204:
            lines.append(f"content-length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return answer


async def silence(writer: asyncio.StreamWriter) -> None:
    """Nothing, ever."""
    await asyncio.Event().wait()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def nonsense(writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 smtp.example ready\r\n\r\n")
    writer.close()


async def endless_head(writer: asyncio.StreamWriter) -> None:
    """Headers without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-more: " + b"x" * 8_000 + b"\r\n")
        await writer.drain()


@dataclass
class EndlessBody:
    """A status, and then a body as fast as it is read; `written` counts its bytes."""

    code: int
    written: int = 0

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d Said\r\ncontent-length: 1000000000000\r\n\r\n" % self.code)
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            self.written += 65_536


async def body_that_never_comes(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nxx")
    await asyncio.Event().wait()


async def cut_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nxx")
    writer.close()


@asynccontextmanager
async def running_receiver(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(receiver.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        await server.wait_closed()
