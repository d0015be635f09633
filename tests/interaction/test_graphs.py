"""Graphs of LangGraph as agents of a real server, over HTTP: what clients see of them, and a pause over a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.servers import SOURCES, ServerFactory, ServerProcess

AGENTS = """
import time
from pathlib import Path
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from innkeeper import register_agent
from tests.support.graphs import Speaker, add, agent_graph, approval_graph, asking_graph
from tests.support.graphs import calling, last_said, speak, usage

def counted(messages):
    return AIMessage(f"You said {last_said(messages)}", usage_metadata=usage(5, 3))

def node(function):
    return StateGraph(MessagesState).add_node("node", function).add_edge(START, "node").compile()

def sleep(state):
    Path("asleep").touch()
    while not Path("wake up").exists():
        time.sleep(0.02)
    return {"messages": [AIMessage("rested")]}

def fail(state):
    raise RuntimeError("a secret")

register_agent("adder", agent_graph(Speaker(reply=calling("add", a=1, b=2, then=counted)), [add]))
register_agent("asking", asking_graph())
register_agent("careful", approval_graph(Speaker(reply=calling("speak", text="one")), [speak]))
register_agent("sleeper", node(sleep))
register_agent("failing", node(fail))
register_agent("model", Speaker(reply=counted))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    factory = ServerFactory(tmp_path_factory.mktemp("graphs"))
    target = factory.write("agents.py", AGENTS)
    try:
        yield factory(target, env={"PYTHONPATH": f"{SOURCES}:{Path(__file__).parents[2]}"})
    finally:
        factory.close()


def post(server: ServerProcess, path: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", json=body, timeout=30, trust_env=False)


def frames(answer: httpx2.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_a_graph_streams_its_words_its_tools_and_its_steps(server: ServerProcess) -> None:
    told = frames(post(server, "/chat/stream", agent_name="adder", input="hi there"))
    assert [one["type"] for one in told] == [
        "run", "step", "tool_call", "tool_result", "step",
        "step", "text", "text", "text", "text", "usage", "step", "done",
    ]  # fmt: skip
    assert (told[2]["arguments"], told[3]["result"]) == ({"a": 1, "b": 2}, "3")
    assert told[-1]["output"] == "You said hi there"
    assert told[-1]["usage"] == {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}


@pytest.mark.parametrize("agent", ["adder", "model"])
def test_graphs_and_models_speak_chat_completions(server: ServerProcess, agent: str) -> None:
    asked = {"model": agent, "messages": [{"role": "user", "content": "hi there"}]}
    streamed = frames(post(server, "/v1/chat/completions", **asked, stream=True))
    pieces = [choice["delta"].get("content") for chunk in streamed for choice in chunk["choices"]]
    assert [piece for piece in pieces if piece] == ["You", " said", " hi", " there"]
    answer = post(server, "/v1/chat/completions", **asked).json()
    assert answer["choices"][0]["message"]["content"] == "You said hi there"
    assert answer["usage"]["total_tokens"] == 8


def test_a_session_is_a_graphs_memory(server: ServerProcess) -> None:
    for said in ("one", "two"):
        post(server, "/chat", agent_name="adder", input=said, session_id="remembered")
    found = httpx2.get(f"{server.url}/sessions/remembered", timeout=30, trust_env=False).json()
    told = [one["content"] for one in found["messages"] if one["role"] in ("user", "assistant") and one["content"]]
    assert told == ["one", "You said one", "two", "You said two"]


def test_a_server_answers_others_while_a_node_blocks(server: ServerProcess) -> None:
    with ThreadPoolExecutor(1) as pool, httpx2.Client(base_url=server.url, trust_env=False) as client:
        for name in ("asleep", "wake up"):
            (server.folder / name).unlink(missing_ok=True)
        run = pool.submit(post, server, "/chat", agent_name="sleeper", input="sleep")
        while not (server.folder / "asleep").exists():
            assert not run.done()
            time.sleep(0.01)
        try:
            assert client.get("/live", timeout=20).status_code == 200
            assert not run.done()
        finally:
            (server.folder / "wake up").touch()
        assert run.result().json()["output"] == "rested"


def test_a_graph_that_raises_fails_its_run_and_tells_no_secret(server: ServerProcess) -> None:
    answer = post(server, "/chat", agent_name="failing", input="hi")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "AGENT_FAILED")
    assert "secret" not in answer.text


def test_a_graphs_question_is_answered_after_the_server_was_killed(server: ServerProcess) -> None:
    asked = [frames(post(server, "/chat/stream", agent_name=one, input="hello"))[-1] for one in ("asking", "careful")]
    assert [one["type"] for one in asked] == ["requires_action"] * 2
    (question,), (approval,) = (one["actions"] for one in asked)
    assert (question["kind"], question["name"], question["arguments"]) == ("input", "ask", {"question": "How many?"})
    assert (approval["kind"], approval["name"], approval["arguments"]) == ("approval", "speak", {"text": "one"})
    server.kill()
    server.restart()
    answer = {"id": question["id"], "decision": "answer", "value": 42}
    done = post(server, f"/runs/{asked[0]['run_id']}/resume", answers=[answer])
    assert (done.status_code, done.json()["output"]) == (200, "You said 42.")
    edited = {"id": approval["id"], "decision": "approve", "arguments": {"text": "another"}}
    told = frames(post(server, f"/runs/{asked[1]['run_id']}/resume", answers=[edited], stream=True))
    (result,) = [one for one in told if one["type"] == "tool_result"]
    assert result["result"] == "another"
    assert told[-1]["output"] == "hello"
