"""The bus over PostgreSQL: LISTEN and NOTIFY on one connection of its own, never within anyone's transaction.

Where the address is read and errors are told, it resembles `storage.postgres.connections`, which it may not import.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

from innkeeper.buses.connected import ConnectedBus, Line
from innkeeper.core.errors import SetupError

CHANNEL = "innkeeper_wakes"

_SEND = f"SELECT pg_notify('{CHANNEL}', message) FROM unnest($1::text[]) AS message"  # noqa: S608 - a constant
_SETTINGS = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
_NO_ADDRESS = (
    "DATABASE_URL is not an address that can be used; it should read"
    " postgresql://user:password@host:port/database, with special characters percent-encoded."
)


class PostgresBus(ConnectedBus):
    """At `postgresql://user:password@host:port/database`; every process needs the same database."""

    def __init__(self, url: str, *, patience: float = 5.0) -> None:
        scheme, _, rest = url.partition("://")
        self._url = f"{scheme.partition('+')[0]}://{rest}"
        super().__init__(_label(self._url), patience)

    async def connect(self, hear: Callable[[str], None], wake: Callable[[], object]) -> Line:
        if not self._label:
            raise SetupError(_NO_ADDRESS)
        connection = None
        try:
            async with asyncio.timeout(self._patience):
                settings = {**_SETTINGS, "application_name": f"innkeeper bus, pid {os.getpid()}"}
                connection = await asyncpg.connect(self._url, server_settings=settings)
                connection.add_termination_listener(lambda _: wake())
                await connection.add_listener(CHANNEL, lambda *heard: hear(heard[-1]))
                line = _PostgresLine(connection, await connection.prepare(_SEND))
                await line.send(())  # what is prepared is in a transaction until its first use, and hears nothing
                return line
        except BaseException as error:
            if connection is not None:
                connection.terminate()
            if isinstance(error, Exception):
                raise self._told(error) from None
            raise

    def _told(self, error: Exception) -> SetupError:
        match error:
            case asyncpg.InvalidAuthorizationSpecificationError():
                told = f"{self._label} refused the user or the password. Check DATABASE_URL."
            case asyncpg.InvalidCatalogNameError():
                told = f"There is no such database: {self._label}. Create it, or check DATABASE_URL."
            case asyncpg.PostgresError():
                told = f"{self._label} refused the connection: {error}."
            case TimeoutError():
                told = f"{self._label} cannot be reached: no answer within {self._patience:g} s."
            case OSError():
                told = f"{self._label} cannot be reached ({error}). Is it running, and is DATABASE_URL right?"
            case _:  # its text may quote a piece of the URL, and so of the password
                told = _NO_ADDRESS
        return SetupError(told)


class _PostgresLine:
    def __init__(self, connection: asyncpg.Connection[Any], send: Any) -> None:
        self._connection = connection
        self._send = send

    async def send(self, messages: Sequence[str]) -> None:
        await self._send.fetch(messages)

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self._connection.close(timeout=1.0)


def _label(url: str) -> str:
    """Where it is, without credentials; nothing if that cannot be told for sure."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    if "@" in parts.path + parts.fragment or ("@" in parts.query and parts.netloc and "@" not in parts.netloc):
        return ""  # the password holds a character that ends the place of passwords
    server = f"{parts.hostname}{port}" if parts.hostname else "the default host"
    return f"PostgreSQL, {unquote(parts.path.lstrip('/')) or 'the default database'} at {server}"
