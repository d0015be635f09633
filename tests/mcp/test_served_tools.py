"""Agents as tools of a server that is a process: it is restarted, ends, or has no SDK."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from mcp.client.client import Client
from mcp.types import CallToolResult

from innkeeper.storage.postgres.stores import PostgresStore
from tests.support.mcp_clients import ACCEPTED, GENERATIONS, an_mcp_client, call, cancelled
from tests.support.servers import ServerFactory
from tests.support.sizes import IS_FULL

AGENTS = """
import asyncio, sys
from pathlib import Path
from innkeeper import ServerBase

app = ServerBase()

@app.agent("echo")
async def echo(messages):
    return " | ".join(message["content"] for message in messages if message["role"] == "user")

@app.agent("patient")
async def patient(messages):
    yield "Wait: "
    while not Path(messages[-1]["content"]).exists():
        await asyncio.sleep(0.01)
    yield "done."

@app.agent("loaded")
async def loaded(messages):
    return " ".join(sorted(name for name in sys.modules if name.split(".")[0] in ("mcp", "fastmcp", "pydantic_ai")))
"""
WITHOUT = """
import sys
sys.modules["mcp"] = None
"""


@pytest.mark.skipif(not IS_FULL, reason="starts two servers")
async def test_clients_go_on_over_a_restart(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("tools.py", AGENTS)
    server = await asyncio.to_thread(innkeeper_server, "tools.py")
    async with an_mcp_client(server.url, "legacy") as old, an_mcp_client(server.url, "auto") as new:
        sessions = [(await client.call_tool("echo", {"message": "One"})).structured_content for client in (old, new)]
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        for client, first in zip((old, new), sessions, strict=True):
            again = await client.call_tool("echo", {"message": "Two", "session_id": first["session_id"]})
            assert again.structured_content["output"] == "One | Two"


async def test_calls_under_way_end_before_the_server_does(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("tools.py", AGENTS)
    server = await asyncio.to_thread(innkeeper_server, "tools.py")
    file = server.folder / "go"
    speaking = {mode: asyncio.Event() for mode in GENERATIONS}

    async def ask(client: Client, mode: str) -> CallToolResult:
        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            speaking[mode].set()

        return await client.call_tool("patient", {"message": str(file)}, progress_callback=on_progress)

    async with an_mcp_client(server.url, "legacy") as old, an_mcp_client(server.url, "auto") as new:
        for client in (old, new):
            await client.list_tools()  # or it asks for them when it has the answer, of a server that has gone
        calling = [asyncio.create_task(ask(client, mode)) for client, mode in zip((old, new), GENERATIONS, strict=True)]
        for event in speaking.values():
            await asyncio.wait_for(event.wait(), 20)
        ending = asyncio.create_task(asyncio.to_thread(server.terminate))
        await asyncio.to_thread(server.wait_for_refusal)
        await asyncio.sleep(0.6)  # longer than those libraries need to see it that end streams when a server ends
        file.touch()
        answers = await asyncio.wait_for(asyncio.gather(*calling), 20)
        assert await ending == 0
    assert [answer.structured_content["output"] for answer in answers] == ["Wait: done."] * 2


def test_without_the_sdk_the_route_says_what_is_missing(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("tools.py", WITHOUT + AGENTS)
    server = innkeeper_server("tools.py")
    answer = httpx2.post(
        f"{server.url}/mcp", json=call("echo", {"message": "Hello"}), headers=ACCEPTED, trust_env=False
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")
    assert "pip install 'innkeeper[mcp]'" in answer.json()["detail"]


def test_nothing_of_mcp_is_imported_before_somebody_asks(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("tools.py", AGENTS)
    server = innkeeper_server("tools.py")
    body = {"input": "What is loaded?", "agent_name": "loaded"}
    assert httpx2.post(f"{server.url}/chat", json=body, trust_env=False).json()["output"] == ""


@pytest.mark.skipif(not IS_FULL, reason="starts two servers over PostgreSQL")
async def test_a_call_is_cancelled_by_way_of_another_process(
    innkeeper_server: ServerFactory, postgres_database: str
) -> None:
    innkeeper_server.write("tools.py", AGENTS)
    await PostgresStore(postgres_database).migrate()
    env = {"DATABASE_URL": postgres_database}
    one = await asyncio.to_thread(innkeeper_server, "tools.py", env=env)
    other = await asyncio.to_thread(innkeeper_server, "tools.py", env=env)
    headers = {**ACCEPTED, "mcp-session-id": "mine"}
    async with httpx2.AsyncClient(timeout=30, trust_env=False) as http:
        waiting = call("patient", {"message": str(one.folder / "never")}, "seven")
        calling = asyncio.create_task(http.post(f"{one.url}/mcp", json=waiting, headers=headers))
        while not (await http.get(f"{other.url}/runs", params={"status": "running"})).json()["runs"]:
            await asyncio.sleep(0.02)
        assert (await http.post(f"{other.url}/mcp", json=cancelled("seven"), headers=headers)).status_code == 202
        told = (await asyncio.wait_for(calling, 10)).json()["result"]
    assert told["structuredContent"]["error"]["code"] == "CANCELLED"
