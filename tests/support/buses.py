"""Buses under test: what they tell, the servers behind them, and what else may happen on their channels."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis

from innkeeper.buses import postgres, redis
from innkeeper.ports.bus import Bus
from tests.support.doorways import Doorway
from tests.support.services import free_port


class Ear:
    """A `Receive` that keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self._called = asyncio.Event()

    def __call__(self, topics: Collection[str]) -> None:
        self.calls.append(tuple(topics))
        self._called.set()

    @property
    def topics(self) -> list[str]:
        return [topic for call in self.calls for topic in call]

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not is_so():
                self._called.clear()
                await self._called.wait()

    async def hears(self, topic: str) -> None:
        await self.until(lambda: topic in self.topics)


class BusServer(ABC):
    """A service that buses meet at."""

    def __init__(self, url: str) -> None:
        self.url = url

    def through(self, port: int) -> str:
        """The URL of the service by way of another port."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()

    @property
    def unreachable(self) -> str:
        return self.through(free_port())

    @asynccontextmanager
    async def doorway(self) -> AsyncIterator[Doorway]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        doorway = Doorway(parts.hostname, parts.port)
        await doorway.open()
        yield doorway
        doorway.thaw()
        doorway.shut()

    @abstractmethod
    def bus(self, url: str | None = None, *, patience: float = 5.0) -> Bus: ...

    @abstractmethod
    async def cut(self) -> int:
        """Ends the connections of all buses, and tells how many there were."""

    @abstractmethod
    async def say(self, *messages: str) -> None:
        """As anyone else may on the channel."""

    @abstractmethod
    def overheard(self) -> Any:
        """An async context manager whose value is the list of messages on the channel."""


class PostgresServer(BusServer):
    def bus(self, url: str | None = None, *, patience: float = 5.0) -> Bus:
        return postgres.PostgresBus(url or self.url, patience=patience)

    async def cut(self) -> int:
        return len(
            await self._fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'innkeeper bus%' AND datname = current_database()"
            )
        )

    async def say(self, *messages: str) -> None:
        for message in messages:
            await self._fetch("SELECT pg_notify($1, $2)", postgres.CHANNEL, message)

    async def _fetch(self, statement: str, *arguments: str) -> list[Any]:
        connection = await asyncpg.connect(self.url)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    @asynccontextmanager
    async def overheard(self) -> AsyncIterator[list[str]]:
        connection = await asyncpg.connect(self.url)
        messages: list[str] = []
        await connection.add_listener(postgres.CHANNEL, lambda *heard: messages.append(heard[-1]))
        yield messages
        await connection.close()


class RedisServer(BusServer):
    def bus(self, url: str | None = None, *, patience: float = 5.0) -> Bus:
        return redis.RedisBus(url or self.url, patience=patience)

    async def cut(self) -> int:
        async with Redis.from_url(self.url) as client:
            connections = [c for c in await client.client_list() if c["name"].startswith("innkeeper-bus")]
            for connection in connections:
                await client.client_kill_filter(_id=connection["id"])
        return len(connections)

    async def say(self, *messages: str) -> None:
        async with Redis.from_url(self.url) as client:
            for message in messages:
                await client.publish(redis.CHANNEL, message)

    @asynccontextmanager
    async def overheard(self) -> AsyncIterator[list[str]]:
        messages: list[str] = []
        async with Redis.from_url(self.url) as client, client.pubsub() as subscription:
            await subscription.subscribe(redis.CHANNEL)
            await subscription.get_message(timeout=5)

            async def listen() -> None:
                async for message in subscription.listen():
                    if message["data"]:  # buses send nothing at all when they open, to see whether they may
                        messages.append(message["data"].decode())

            listening = asyncio.create_task(listen())
            yield messages
            listening.cancel()
            await asyncio.wait({listening})
