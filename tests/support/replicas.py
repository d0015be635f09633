"""Replicas: the processes that serve one store, to be killed and started again while clients go on elsewhere.

Over SQLite that is one process, which then is both the one that executes a run and the other one.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.servers import ServerFactory, ServerProcess

Json = dict[str, Any]

STORES = ("sqlite", "postgres", "postgres+redis")


@dataclass(frozen=True)
class Replicas:
    """Servers of one store; `one` and `other` are two of them where the store allows it."""

    servers: Sequence[ServerProcess]

    @property
    def one(self) -> ServerProcess:
        return self.servers[0]

    @property
    def other(self) -> ServerProcess:
        return self.servers[-1]

    @property
    def are_many(self) -> bool:
        return len(self.servers) > 1

    def any(self, chance: random.Random) -> ServerProcess:
        return chance.choice(self.servers)

    def others_than(self, server: ServerProcess) -> Sequence[ServerProcess]:
        """Who is there when `server` is not; itself, where it is alone."""
        return [one for one in self.servers if one is not server] or [server]

    async def replace(self, server: ServerProcess, pause: float = 0.0) -> None:
        """SIGKILL to a server, and after `pause` seconds a new one in its place."""
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(pause)
        await asyncio.to_thread(server.start)

    def assert_nothing_was_raised(self) -> None:
        for server in self.servers:
            assert "Traceback" not in server.log, server.log


@contextmanager
def running_replicas(
    store: str, folder: Path, request: Any, agents: str, env: Mapping[str, str] | None = None
) -> Iterator[Replicas]:
    """Servers of `agents`, the source of a module, over a store of their own; `request` is the fixture's."""
    factory = ServerFactory(folder)
    factory.write("inn.py", agents)
    environment = {"INNKEEPER_DRAIN_SECONDS": "1", **(env or {})}
    try:
        if store == "sqlite":
            yield Replicas([factory("inn.py", env=environment)])
            return
        if store == "postgres+redis":
            environment["REDIS_URL"] = request.getfixturevalue("redis_url")
        postgres = request.getfixturevalue("postgres_url")
        with a_copy_of(a_migrated_database(postgres), postgres) as url:
            environment["DATABASE_URL"] = url
            try:
                yield Replicas(
                    [factory("inn.py", "--data-dir", str(folder / name), env=environment) for name in ("one", "two")]
                )
            finally:
                factory.close()
    finally:
        factory.close()


_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading certificates would hold up the loop for every client


@asynccontextmanager
async def client_of(server: ServerProcess) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of one process, which patiently waits for answers."""
    limits = httpx2.Limits(max_connections=200, max_keepalive_connections=50)
    async with httpx2.AsyncClient(
        base_url=server.url, timeout=60, limits=limits, trust_env=False, verify=_NO_TLS
    ) as client:
        yield client


async def ended(client: httpx2.AsyncClient, run_id: str) -> Json:
    """The run, once it has ended."""
    run: Json = (await client.get(f"/runs/{run_id}", params={"wait": 60})).json()
    assert run["ended_at"] is not None, run
    return run


async def spoken(client: httpx2.AsyncClient, session_id: str) -> list[tuple[str, str]]:
    """Who said what in a session."""
    answer = await client.get(f"/sessions/{session_id}")
    assert answer.status_code == 200, answer.text
    return [(message["role"], message["content"]) for message in answer.json()["messages"]]
