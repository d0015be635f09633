"""The bus over Redis: one connection that subscribes, and one that publishes.

It uses the driver's connections and not its client, which connects again by itself and does not tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis import exceptions
from redis.asyncio import ConnectionPool

from innkeeper.buses.connected import ConnectedBus, Line
from innkeeper.core.errors import SetupError

CHANNEL = "innkeeper:wakes"

_NO_ADDRESS = (
    "REDIS_URL is not an address that can be used; it should read redis://user:password@host:port/0,"
    " rediss://… or unix:///path, with special characters percent-encoded."
)

Connection = Any
"""The driver's own; half of its methods have no types."""


class RedisBus(ConnectedBus):
    """At `redis://user:password@host:port/0`; channels have no database, so the number does not matter."""

    def __init__(self, url: str, *, patience: float = 5.0) -> None:
        self._url = url
        super().__init__(_label(url), patience)

    async def connect(self, hear: Callable[[str], None], wake: Callable[[], object]) -> Line:
        hearing, sending = self._connections()
        try:
            async with asyncio.timeout(self._patience):
                await hearing.connect()
                await sending.connect()
                await hearing.send_command("SUBSCRIBE", CHANNEL)
                await hearing.read_response()
                line = _RedisLine(hearing, sending, 5 * self._patience)
                await line.send([""])  # may this user publish?
        except BaseException as error:
            await _disconnect(hearing, sending)
            if isinstance(error, Exception):
                raise self._told(error) from None
            raise
        line.listen(hear, wake)
        return line

    def _connections(self) -> tuple[Connection, Connection]:
        if not self._label:
            raise SetupError(_NO_ADDRESS)
        try:
            pool: Any = ConnectionPool.from_url(
                self._url,
                protocol=2,
                client_name=f"innkeeper-bus-{os.getpid()}",
                socket_connect_timeout=self._patience,
                socket_timeout=None,
            )
            return pool.make_connection(), pool.make_connection()
        except (ValueError, TypeError, exceptions.RedisError):  # their text may quote a piece of the URL
            raise SetupError(_NO_ADDRESS) from None

    def _told(self, error: Exception) -> SetupError:
        match error:
            case exceptions.AuthenticationError():
                told = f"{self._label} refused the user or the password. Check REDIS_URL."
            case exceptions.NoPermissionError():
                told = f"{self._label} does not let this user use the channel {CHANNEL}. Allow it: &{CHANNEL}."
            case TimeoutError() | exceptions.TimeoutError():
                told = f"{self._label} cannot be reached: no answer within {self._patience:g} s."
            case (
                exceptions.ResponseError() | exceptions.InvalidResponse()
            ):  # some servers repeat the command, and so the password
                told = f"{self._label} refused the connection. Is it a Redis, and is REDIS_URL right?"
            case _:
                told = f"{self._label} cannot be reached ({error}). Is it running, and is REDIS_URL right?"
        return SetupError(told)


class _RedisLine:
    """The two connections; `silence` is for how long nothing may be heard, although an answer to PING is due."""

    def __init__(self, hearing: Connection, sending: Connection, silence: float) -> None:
        self._hearing = hearing
        self._sending = sending
        self._silence = silence
        self._listening: asyncio.Task[None] | None = None

    def listen(self, hear: Callable[[str], None], wake: Callable[[], object]) -> None:
        self._listening = asyncio.get_running_loop().create_task(self._listen(hear))
        self._listening.add_done_callback(lambda _: wake())

    async def _listen(self, hear: Callable[[str], None]) -> None:
        with contextlib.suppress(exceptions.RedisError, OSError):
            while (heard := await self._hearing.read_response(timeout=self._silence)) is not None:
                match heard:
                    case [b"message", _, bytes(data)]:
                        hear(data.decode("ascii", "replace"))

    async def send(self, messages: Sequence[str]) -> None:
        if self._listening is not None and self._listening.done():
            raise ConnectionResetError("the subscription has ended")
        commands: list[tuple[str, ...]] = [("PUBLISH", CHANNEL, message) for message in messages]
        if not commands:
            await self._hearing.send_command("PING")
            commands = [("PING",)]
        await self._sending.send_packed_command(self._sending.pack_commands(commands))
        for _ in commands:
            await self._sending.read_response()

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
        await _disconnect(self._hearing, self._sending)


async def _disconnect(*connections: Connection) -> None:
    for connection in connections:
        with contextlib.suppress(Exception):
            await connection.disconnect(nowait=True)


def _label(url: str) -> str:
    """Where it is, without credentials; nothing if that cannot be told for sure."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    if parts.scheme == "unix":
        return f"Redis at {parts.path}"
    if "@" in parts.path + parts.fragment or ("@" in parts.query and parts.netloc and "@" not in parts.netloc):
        return ""  # the password holds a character that ends the place of passwords
    return f"Redis at {parts.hostname or 'localhost'}{port}"
