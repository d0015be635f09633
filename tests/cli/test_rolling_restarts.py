"""Replicas behind a balancer that are replaced one after the other: no client notices."""

from __future__ import annotations

import asyncio
import time

import httpx2

from tests.cli.conftest import ECHO, Folder
from tests.support.balancers import Balancer, balancing
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import IS_FULL

RATE = 50
KEPT_CLIENTS = 5


class Crowd:
    """Clients that together ask so many times a second, half of them on connections that they keep."""

    def __init__(self, balancer: Balancer) -> None:
        self._url = f"http://127.0.0.1:{balancer.port}/chat"
        self._is_over = asyncio.Event()
        self.answers = 0
        self.failures: list[str] = []

    async def ask(self) -> None:
        """Ask until `leave` is called, at an even pace."""
        kept = [httpx2.AsyncClient(timeout=30, trust_env=False) for _ in range(KEPT_CLIENTS)]
        no_connection = httpx2.Limits(max_keepalive_connections=0)
        anew = httpx2.AsyncClient(timeout=30, trust_env=False, limits=no_connection)
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            number = 0
            while not self._is_over.is_set():
                tasks.create_task(self._ask(kept[number // 2 % KEPT_CLIENTS] if number % 2 else anew))
                number += 1
                await asyncio.sleep(began + number / RATE - loop.time())
        for client in (*kept, anew):
            await client.aclose()

    def leave(self) -> None:
        self._is_over.set()

    async def _ask(self, client: httpx2.AsyncClient) -> None:
        try:
            response = await client.post(self._url, json={"input": "Hello"})
        except httpx2.HTTPError as error:
            self.failures.append(repr(error))
            return
        if response.status_code != 200 or response.json()["output"] != "You said: Hello":
            self.failures.append(response.text)
        self.answers += 1


async def restart(server: ServerProcess) -> None:
    assert await asyncio.to_thread(server.terminate) == 0
    await asyncio.to_thread(server.start)


async def test_a_rolling_restart_fails_no_request(innkeeper_server: ServerFactory, postgres_database: str) -> None:
    env = {"DATABASE_URL": postgres_database}
    assert Folder(innkeeper_server.folder).run("migrate", env=env).code == 0
    innkeeper_server.write("mine.py", ECHO)
    replicas = [innkeeper_server("mine.py", env=env) for _ in range(2)]
    async with balancing(*(replica.port for replica in replicas)) as balancer:
        crowd = Crowd(balancer)
        asking = asyncio.create_task(crowd.ask())
        began = time.monotonic()
        for replica in replicas:
            await asyncio.sleep(1)  # so that every client has a connection that it keeps
            await restart(replica)
        crowd.leave()
        await asking
        seconds = time.monotonic() - began
    assert crowd.failures == []
    assert crowd.answers > RATE * seconds * (0.8 if IS_FULL else 0.2), "they did not wait for each other"
    assert balancer.refused > 0, "the balancer never had to go elsewhere"
