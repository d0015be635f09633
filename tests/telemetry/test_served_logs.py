"""A server as its users start it: what it logs is in its store, after a stop, after a flood, and on either store."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import sized, within

LINES = sized(100_000, 40_000)
LOGS = "/api/observability/logs"
AGENTS = """
import asyncio
import logging

from innkeeper import register_agent

log = logging.getLogger("my.agent")


async def talking(messages):
    said = messages[-1]["content"]
    if said == "wait":
        try:
            yield "waiting"
            await asyncio.Event().wait()
        finally:
            log.info("cut off")
    for number in range(int(said)):
        log.info("line %d", number)
    yield "ok"


register_agent("talking", talking)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def server(innkeeper_server: ServerFactory, request: pytest.FixtureRequest) -> ServerProcess:
    innkeeper_server.write("agents.py", AGENTS)
    store = {} if request.param == "sqlite" else {"DATABASE_URL": request.getfixturevalue("database")}
    return innkeeper_server("agents.py", env={"LOG_FILE": "server.log", "INNKEEPER_DRAIN_SECONDS": "0", **store})


def say(server: ServerProcess, lines: int, session_id: str) -> None:
    body = {"input": str(lines), "session_id": session_id}
    assert httpx2.post(f"{server.url}/chat", json=body, timeout=60).status_code == 200


def listed(server: ServerProcess, **query: Any) -> dict[str, Any]:
    answer: dict[str, Any] = httpx2.get(f"{server.url}{LOGS}", params=query, timeout=30).json()
    return answer


def messages(server: ServerProcess, session_id: str) -> list[str]:
    """What was logged in a session, oldest first."""
    found: list[str] = []
    page = listed(server, session_id=session_id, limit=200)
    while True:
        found += [record["message"] for record in page["logs"]]
        if not page["has_more"]:
            return found[::-1]
        page = listed(server, session_id=session_id, limit=200, after=page["next"])


def test_what_was_logged_last_is_there_after_a_stop(server: ServerProcess) -> None:
    say(server, 1000, "a-session")
    body = {"input": "wait", "session_id": "a-session"}
    with httpx2.stream("POST", f"{server.url}/chat/stream", json=body, timeout=60) as stream:
        assert next(line for line in stream.iter_lines() if "waiting" in line)
        assert server.terminate() == 0
    server.start()
    assert messages(server, "a-session") == [*(f"line {number}" for number in range(1000)), "cut off"]


def test_a_flood_of_lines_is_bounded_told_of_and_holds_nobody_up_for_long(server: ServerProcess) -> None:
    say(server, LINES, "a-flood")
    began = time.monotonic()
    assert httpx2.get(f"{server.url}/health", timeout=20).status_code == 200
    assert time.monotonic() - began < within(1, 8)
    while not (told := listed(server, q="were dropped", source="server")["logs"]):
        assert time.monotonic() - began < within(20, 60)
        time.sleep(0.1)
    assert [record["level"] for record in told] == ["warning"]
    kept = messages(server, "a-flood")
    assert 9_900 < len(kept) <= 10_000, "the newest that the queue has room for, and what others said meanwhile"
    assert kept[-1] == f"line {LINES - 1}"
    assert server.is_alive
