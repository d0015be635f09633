"""A plain TCP balancer in front of servers: it takes turns among them and goes to the next one if one refuses.

It knows nothing of HTTP: what is sent to a server that then does not answer is lost, as it would be anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence


class Balancer:
    """Listens at `port`. `refused` counts how often a server refused a connection."""

    def __init__(self, backends: Sequence[int]) -> None:
        self._backends = list(backends)
        self._turn = 0
        self.port = 0
        self.refused = 0
        self._connections: set[asyncio.Task[None]] = set()

    def accept(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Serve one connection in the background."""
        connection = asyncio.create_task(self._serve(client, answers))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def close(self) -> None:
        """Cut what is still connected."""
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0.01)  # their sockets are closed by the loop

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(answers):
            backend, requests = await self._connect()
            with contextlib.closing(requests):
                await asyncio.gather(_pump(client, requests), _pump(backend, answers))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._turn += 1
        first = self._turn % len(self._backends)
        for port in self._backends[first:] + self._backends[:first]:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                self.refused += 1
        raise ConnectionRefusedError("No server takes connections.")


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    finally:
        with contextlib.suppress(OSError):
            if target.can_write_eof():
                target.write_eof()


@contextlib.asynccontextmanager
async def balancing(*backends: int) -> AsyncIterator[Balancer]:
    """A balancer before the servers on these ports of the loopback interface."""
    balancer = Balancer(backends)
    server = await asyncio.start_server(balancer.accept, "127.0.0.1", 0)
    balancer.port = server.sockets[0].getsockname()[1]
    try:
        yield balancer
    finally:
        server.close()
        await balancer.close()
