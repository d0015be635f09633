"""A TCP port that leads to another one, until it is shut or frozen: how tests take a service away and bring it back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from tests.support.services import free_port


class Doorway:
    """Opened with `open`; `shut` cuts and refuses connections, `freeze` keeps some and passes nothing on.

    Those who pass are numbered from 0.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows: list[asyncio.Event] = []
        self._freezes_all = False

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._lead, "127.0.0.1", self.port)

    def shut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self, numbers: Iterable[int] | None = None) -> None:
        """These, or all and those who come."""
        self._freezes_all = numbers is None
        for number in range(len(self._flows)) if numbers is None else numbers:
            self._flows[number].clear()

    def thaw(self) -> None:
        self._freezes_all = False
        for flow in self._flows:
            flow.set()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        flow = asyncio.Event()
        self._flows.append(flow)
        if not self._freezes_all:
            flow.set()
        await asyncio.gather(self._copy(reader, far_writer, flow), self._copy(far_reader, writer, flow))
        self._writers -= {writer, far_writer}

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await flow.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
