"""Every example runs: as the file says, against a real server, and where it needs a model, a scripted one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.openai_upstream import Reply, running_upstream
from tests.support.servers import ServerFactory

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def say(url: str, text: str, agent: str | None = None, **more: Any) -> Any:
    body = {"input": text, **({"agent_name": agent} if agent else {}), **more}
    return httpx2.post(f"{url}/chat", json=body, timeout=30, trust_env=False).json()


def listed(url: str) -> list[str]:
    return [agent["name"] for agent in httpx2.get(f"{url}/agents", timeout=30, trust_env=False).json()]


def test_assistant(innkeeper_server: ServerFactory) -> None:
    # Whether the local model answers is for its own tests: here it is in the way of nobody.
    server = innkeeper_server(EXAMPLES / "assistant.py", env={"INNKEEPER_CACHE_DIR": "cache", "PIP_NO_INDEX": "1"})
    assert listed(server.url) == ["assistant", "echo"]
    assert say(server.url, "Hello", "echo")["output"] == "You said: Hello"


def test_functions(innkeeper_server: ServerFactory) -> None:
    server = innkeeper_server(EXAMPLES / "functions.py")
    say(server.url, "one", session_id="s")
    assert say(server.url, "two", session_id="s")["output"] == "You have said 2 things in this session."
    assert say(server.url, "hello", "shout")["output"] == "HELLO"


def test_streaming(innkeeper_server: ServerFactory) -> None:
    server = innkeeper_server(EXAMPLES / "streaming.py")
    body = {"input": "tell me a story"}
    frames = httpx2.post(f"{server.url}/chat/stream", json=body, timeout=30, trust_env=False).text
    assert [word in frames for word in ('"tell "', '"story "', "[DONE]")] == [True] * 3
    assert say(server.url, "go", "countdown")["output"] == "3… 2… 1… done."


@pytest.mark.parametrize(
    ("example", "agent"), [("openai_agents_sdk", "weather-agent"), ("pydantic_ai_agent", "travel")]
)
def test_agents_of_frameworks_call_their_tools(innkeeper_server: ServerFactory, example: str, agent: str) -> None:
    with running_upstream() as upstream:
        upstream.script([Reply(calls=(("get_weather", {"city": "Rome"}),)), "Sunny."])
        env = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": upstream.url}
        server = innkeeper_server(EXAMPLES / f"{example}.py", env=env)
        assert say(server.url, "What is the weather in Rome?", agent)["output"] == "Sunny."
        assert "The weather in Rome is sunny" in str(upstream.requests[1].body)


def test_langgraph_graph(innkeeper_server: ServerFactory) -> None:
    server = innkeeper_server(EXAMPLES / "langgraph_graph.py")
    asked = say(server.url, "a table for two")
    (action,) = asked["actions"]
    assert action["arguments"] == "At what time would you like a table for two?"
    answer = {"id": action["id"], "decision": "answer", "value": "19:00"}
    url = f"{server.url}/runs/{asked['run_id']}/resume"
    done = httpx2.post(url, json={"answers": [answer]}, timeout=30, trust_env=False).json()
    assert done["output"] == "Booked a table for two at 19:00."


def test_approvals(innkeeper_server: ServerFactory) -> None:
    server = innkeeper_server(EXAMPLES / "approvals.py")
    asked = say(server.url, 'call delete_file {"path": "a.txt"}', "cleaner")
    url = f"{server.url}/runs/{asked['run_id']}/resume"
    done = httpx2.post(url, json={"decision": "approve"}, timeout=30, trust_env=False).json()
    assert done["output"] == "delete_file returned a.txt is gone."


def test_server_hooks(innkeeper_server: ServerFactory) -> None:
    server = innkeeper_server(EXAMPLES / "server_hooks.py")
    assert say(server.url, "Hi", "greeter")["output"] == "Hello! You said: Hi"
    assert say(server.url, "Hi", "german")["output"] == "Guten Tag! Hi"
    url = f"{server.url}/chat"
    assert httpx2.post(url, json={"input": "Hi"}, headers={"x-robot": "true"}, trust_env=False).status_code == 403
    assert httpx2.get(f"{server.url}/hello", trust_env=False).status_code == 200
    server.wait_for_log(r"(/chat: \d\.\d{3} s, 2 credits)")


def test_declared_agents(innkeeper_server: ServerFactory) -> None:
    with running_upstream() as upstream:
        upstream.script([Reply(calls=(("get_weather", {"city": "Rome"}),)), "Sunny."])
        env = {
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": upstream.url,
            "INNKEEPER_CACHE_DIR": "cache",
            "PIP_NO_INDEX": "1",
        }
        server = innkeeper_server(EXAMPLES / "agents", env=env)
        assert listed(server.url) == ["forecaster", "helper"]
        assert say(server.url, "What is the weather in Rome?", "forecaster")["output"] == "Sunny."
        assert "You tell the weather." in str(upstream.requests[0].body)


def test_every_example_has_a_test() -> None:
    tested = {
        "assistant",
        "functions",
        "streaming",
        "openai_agents_sdk",
        "pydantic_ai_agent",
        "server_hooks",
        "langgraph_graph",
        "approvals",
        "mcp_tools",
        "program",
    }
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_program(innkeeper_server: ServerFactory) -> None:
    server = innkeeper_server(EXAMPLES / "program.py")
    assert say(server.url, "three small words", "words")["output"].strip() == "3"


def test_mcp_tools(innkeeper_server: ServerFactory) -> None:
    server = innkeeper_server(EXAMPLES / "mcp_tools.py")
    assert re.fullmatch(r"clock_now returned \d\d:\d\d\.", say(server.url, "call clock_now {}")["output"])
