"""Cut streams: a client of a run's events whose connections end in every way there is, and who goes on reading.

It speaks HTTP on a bare socket, because a reset, or a reader that stalls, cannot be had from a client library.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import h11

Cut = Literal["reset", "close", "stall"]
CUTS: tuple[Cut, ...] = ("reset", "close", "stall")
DONE = b"data: [DONE]\n\n"

_SMALL_BUFFER = 4096


@dataclass
class Reader:
    """What has arrived of one run's log, over any number of connections: whole frames, and the marker at the end.

    `waits` are the seconds from each request to its first event, and `delays` those for which that event had been
    there already, where its text ends with the moment at which it was said.
    """

    run_id: str
    received: bytearray = field(default_factory=bytearray)
    cursor: int = 0
    is_done: bool = False
    connections: int = 0
    waits: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    async def read(self, url: str, *, by_header: bool, events: int | None = None, cut: Cut = "close") -> None:
        """Resume at `url`, and cut the connection once `events` have come, if the stream has not ended before.

        Raises: OSError when the server is not there, or dies.
        """
        asked_at = time.monotonic()
        connection = await _Connection.open(url, self._request(url, by_header))
        self.connections += 1
        try:
            await self._take(connection, events, asked_at)
            if not self.is_done and cut == "stall":
                await connection.stall()
        finally:
            connection.end(cut)

    def _request(self, url: str, by_header: bool) -> h11.Request:
        query = "" if by_header else f"?after={self.cursor}"
        headers = [("host", urlsplit(url).netloc)]
        if by_header and self.cursor:
            headers.append(("last-event-id", str(self.cursor)))
        return h11.Request(method="GET", target=f"/runs/{self.run_id}/events{query}", headers=headers)

    async def _take(self, connection: _Connection, events: int | None, asked_at: float) -> None:
        """Whole frames count; what is left of one that was cut off is asked for again."""
        rest, seen = b"", 0
        while not self.is_done and (events is None or seen < events):
            data = await connection.receive()
            if data is None:
                return
            *frames, rest = (rest + data).split(b"\n\n")
            for frame in frames:
                if frame.startswith(b":"):
                    continue
                if not seen:
                    self._measure(frame, asked_at)
                self._add(frame + b"\n\n")
                seen += 1

    def _measure(self, frame: bytes, asked_at: float) -> None:
        now = time.monotonic()
        self.waits.append(now - asked_at)
        if (said := re.search(rb" (\d+\.\d+)\"", frame)) is not None:
            self.delays.append(now - max(asked_at, float(said[1])))

    def _add(self, frame: bytes) -> None:
        if frame.startswith(b"id: "):
            seq = int(frame[4 : frame.index(b"\n")])
            assert seq == self.cursor + 1, f"after {self.cursor} came {seq}"
            self.cursor = seq
        else:
            assert frame == DONE, frame
            self.is_done = True
        self.received += frame


class _Connection:
    """One HTTP exchange."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._http = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, url: str, request: h11.Request) -> _Connection:
        host = urlsplit(url)
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        loop = asyncio.get_running_loop()
        connection = cls(sock)
        try:
            await loop.sock_connect(sock, (host.hostname, host.port))
            await loop.sock_sendall(sock, connection._http.send(request) or b"")
            await loop.sock_sendall(sock, connection._http.send(h11.EndOfMessage()) or b"")
            answer = await connection._next()
            assert isinstance(answer, h11.Response), answer
            assert answer.status_code == 200, answer
        except BaseException:
            sock.close()
            raise
        return connection

    async def receive(self) -> bytes | None:
        """What comes next of the body; `None` at its end. Raises: OSError if that is not its proper end."""
        event = await self._next()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        return None

    async def _next(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
            try:
                self._http.receive_data(data)
                if not data:
                    raise ConnectionResetError("the server has closed the connection")
            except h11.RemoteProtocolError as error:
                raise ConnectionResetError(str(error)) from error
        return event

    async def stall(self) -> None:
        """Read nothing for a while, with the connection open and a small buffer."""
        await asyncio.sleep(0.05)

    def end(self, cut: Cut) -> None:
        if cut == "reset":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
