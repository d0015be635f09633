"""Agents that try to end the process: it goes on, and they fail alone."""

from __future__ import annotations

import httpx2
import pytest

from tests.support.servers import ServerFactory, ServerProcess

AGENTS = """
import asyncio, sys
import pydantic_ai
from pydantic_ai.models.test import TestModel
from innkeeper import Agent, ServerBase

app = ServerBase()

@app.agent("echo")
async def echo(messages):
    return messages[-1]["content"]

def quit_now() -> str:
    sys.exit(3)

async def quit_soon() -> str:
    sys.exit(3)

async def leaves_a_task(messages):
    task = asyncio.create_task(quit_soon())
    await asyncio.wait([task], timeout=1)
    return "still here"

for isolated in (False, True):
    tail = "_isolated" if isolated else ""
    app.agent("model" + tail)(Agent("model", model="test", tools=[quit_now, quit_soon], isolated=isolated))
    for tool in (quit_now, quit_soon):
        agent = pydantic_ai.Agent(TestModel(), tools=[tool])
        app.agent(f"pydantic_{tool.__name__}{tail}", isolated=isolated)(agent)
    app.agent("leaves" + tail, isolated=isolated)(leaves_a_task)
"""


def ask(server: ServerProcess, agent: str, said: str = "Hello") -> httpx2.Response:
    body = {"agent_name": agent, "input": said}
    return httpx2.post(f"{server.url}/chat", json=body, timeout=60, trust_env=False)


@pytest.mark.parametrize("tail", ["", "_isolated"])
def test_no_tool_and_no_task_of_an_agent_ends_the_server(innkeeper_server: ServerFactory, tail: str) -> None:
    innkeeper_server.write("exits.py", AGENTS)
    server = innkeeper_server("exits.py")
    pid = server.pid
    for tool in ("quit_now", "quit_soon"):
        answer = ask(server, f"model{tail}", f"call {tool} {{}}").json()
        assert "The tool failed: SystemExit." in answer["output"]
        assert ask(server, f"pydantic_{tool}{tail}").json()["error"]["code"] == "AGENT_FAILED"
    assert ask(server, f"leaves{tail}").json()["output"] == "still here"
    assert ask(server, "echo", "And now?").json()["output"] == "And now?"
    assert server.is_alive
    assert server.pid == pid
    assert "tried to end the process" in server.log
    assert server.terminate() == 0
