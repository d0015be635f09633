"""The logging database hangs, is away, and comes back, under load: nobody who chats notices, and no row is lost."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest

from tests.support.doorways import Doorway
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import IS_FULL, sized

AGENTS = """
from innkeeper import register_agent

def echo(messages):
    if messages[-1]["content"] == "fail":
        raise RuntimeError("asked to")
    return "You said: " + messages[-1]["content"]

register_agent("echo", echo)
"""
SECONDS = sized(20, 2)
"""How long the database hangs, and how long it is away."""

NEVER = 60.0


@pytest.fixture
async def doorway(postgres_database: str) -> AsyncIterator[Doorway]:
    place = urlsplit(postgres_database)
    opened = Doorway(place.hostname or "127.0.0.1", place.port or 5432)
    await opened.open()
    yield opened
    opened.thaw()
    opened.shut()


def logging_to(doorway: Doorway, database: str, **also: str) -> dict[str, str]:
    place = urlsplit(database)
    return {
        "DB_LOGGING_ENABLED": "true",
        "LOGGING_DB_HOST": "127.0.0.1",
        "LOGGING_DB_PORT": str(doorway.port),
        "LOGGING_DB_NAME": place.path.lstrip("/"),
        "LOGGING_DB_USER": place.username or "postgres",
        "RATE_LIMIT_ANONYMOUS": "off",
        "RATE_LIMIT_USER": "off",
        **also,
    }


async def started(servers: ServerFactory, env: dict[str, str]) -> ServerProcess:
    servers.write("inn.py", AGENTS)
    return await asyncio.to_thread(servers, "inn.py", env=env)


async def chats(client: httpx2.AsyncClient, seconds: float) -> list[tuple[int, float]]:
    """Four clients that chat for so long; the status and the seconds of each answer."""
    until, answers = time.monotonic() + seconds, []

    async def chat() -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            answer = await client.post("/chat", json={"input": "Hello"})
            answers.append((answer.status_code, time.monotonic() - began))
            await asyncio.sleep(0.01)

    await asyncio.gather(*(chat() for _ in range(4)))
    return answers


async def copied(database: str, count: int) -> list[asyncpg.Record]:
    """The rows of the logging database, once there are so many."""
    connection = await asyncpg.connect(database)
    try:
        async with asyncio.timeout(NEVER):
            while True:
                if await connection.fetchval("SELECT to_regclass('chat_logs') IS NOT NULL"):
                    rows: list[asyncpg.Record] = await connection.fetch("SELECT * FROM chat_logs ORDER BY id")
                    if len(rows) >= count:
                        return rows
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


def waiting_in(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM outbox")
        return int(count)


async def test_no_row_is_lost_and_no_chat_is_slower_while_the_logging_database_hangs_or_is_away(
    innkeeper_server: ServerFactory, doorway: Doorway, postgres_database: str, tmp_path: Path
) -> None:
    server = await started(innkeeper_server, logging_to(doorway, postgres_database))
    async with httpx2.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
        answers = await chats(client, 0.5)
        await copied(postgres_database, len(answers))
        doorway.freeze()
        hanging = await chats(client, SECONDS + 1)
        doorway.shut()
        away = await chats(client, SECONDS)
        await doorway.open()
        doorway.thaw()
        answers += [*hanging, *away, *await chats(client, 0.5)]
        assert {status for status, _ in answers} == {200}
        longest = [max(seconds for _, seconds in some) for some in (hanging, away)]
        assert not IS_FULL or max(longest) < 3, "a chat waited for the logging database"
        assert all(median(seconds for _, seconds in some) < 0.7 for some in (hanging, away)), longest
        rows = await copied(postgres_database, len(answers))
        runs = (await client.get("/logs", params={"limit": 1})).json()["total"]

    assert len({row["id"] for row in rows}) == len(rows) == len(answers) == runs
    assert await asyncio.to_thread(server.wait_for_log, "(chat logs are copied later)")
    assert await asyncio.to_thread(server.terminate) == 0
    assert waiting_in(tmp_path / "data" / "innkeeper.db") == 0


@pytest.mark.parametrize("asks", [False, True])
async def test_what_was_said_is_copied_only_where_that_was_asked_for(
    innkeeper_server: ServerFactory, doorway: Doorway, postgres_database: str, asks: bool
) -> None:
    env = logging_to(doorway, postgres_database, LOGGING_DB_CONTENTS=str(asks).lower())
    server = await started(innkeeper_server, env)
    async with httpx2.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
        run = (await client.post("/chat", json={"input": "Hi\0there", "session_id": "s", "user_id": "eve"})).json()
        await client.post("/chat", json={"input": "fail", "session_id": "s"})
    # What is left when a server stops is copied before it ends.
    assert await asyncio.to_thread(server.terminate) == 0
    first, second = await copied(postgres_database, 2)
    assert (first["run_id"], first["session_id"], first["user_id"]) == (run["run_id"], "s", "eve")
    assert (first["agent_name"], first["endpoint"], first["status"]) == ("echo", "/chat", "completed")
    assert first["response_time_ms"] > 0
    said = ("Hi\ufffdthere", "You said: Hi\ufffdthere") if asks else (None, None)
    assert (first["input_message"], first["output_response"]) == said
    told = "The agent failed. The server's log has the reason."
    assert (second["status"], second["error_message"]) == ("failed", told)
    assert json.loads(first["token_usage"] or "null") is None
