"""The scripted model: it says what a test wrote down, to agents of every kind, and fails where it is told to."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pydantic
import pydantic_ai
import pytest

from innkeeper import Agent, ServerBase
from innkeeper.testing import Call, ScriptedModel, Thought, Wait, create_test_client
from tests.support.inns import frames

Json = dict[str, Any]


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def asked(agent: object, *inputs: str, **fields: Any) -> list[Any]:
    """What a server with this one agent answers to each input."""
    app = ServerBase()
    app.agent("it")(agent)
    with create_test_client(app) as client:
        return [client.post("/chat", json={"input": text, "session_id": "s", **fields}) for text in inputs]


def test_an_agent_gets_one_reply_each_time_it_asks() -> None:
    model = ScriptedModel([[Thought("Sums."), "Let me see. ", Call("add", {"a": 1, "b": 2})], "It is 3.", "Gladly."])
    first, second = asked(Agent("adder", model=model, tools=[add]), "1 + 2?", "Thanks!")
    assert first.json()["output"] == "Let me see. \n\nIt is 3."
    assert (second.json()["output"], model.unsaid) == ("Gladly.", 0)
    returned = model.asked[1][-1].parts[-1]
    assert (returned.tool_name, returned.content) == ("add", 3)
    assert len(model.asked) == 3


def test_calls_of_one_reply_are_made_side_by_side_and_keep_their_ids() -> None:
    calls = [Call("add", {"a": 1, "b": 1}, id="one"), Call("add", '{"a": 2, "b": 2}', id="two")]
    model = ScriptedModel([calls, "Done."])
    (answer,) = asked(pydantic_ai.Agent(model, tools=[add]), "go", stream=True)
    told = [frame.data for frame in frames(answer.content) if isinstance(frame.data, dict)]
    assert [event["tool_call_id"] for event in told if event["type"] == "tool_call"] == ["one", "two"]
    assert {event["tool_call_id"]: event["result"] for event in told if event["type"] == "tool_result"} == {
        "one": 2,
        "two": 4,
    }
    assert [event["content"] for event in told if event["type"] == "text"] == ["Done."]


def test_an_exception_is_raised_after_what_was_said_before_it() -> None:
    model = ScriptedModel([["So far ", RuntimeError("the line is cut")]])
    (answer,) = asked(Agent("cut", model=model), "go", stream=True)
    told = [frame.data for frame in frames(answer.content) if isinstance(frame.data, dict)]
    assert "".join(event["content"] for event in told if event["type"] == "text") == "So far "
    assert [event["error"]["code"] for event in told if event["type"] == "error"] == ["AGENT_FAILED"]


async def test_a_script_that_is_over_fails_and_one_that_repeats_begins_anew() -> None:
    agent = pydantic_ai.Agent(ScriptedModel(["once"]))
    assert (await agent.run("a")).output == "once"
    with pytest.raises(RuntimeError, match="The script has 1 replies, and its model was asked once more"):
        await agent.run("b")
    again = pydantic_ai.Agent(ScriptedModel(["one", "two"], repeats=True))
    assert [(await again.run("x")).output for _ in range(3)] == ["one", "two", "one"]
    with pytest.raises(RuntimeError, match="The script has 0 replies"):
        await pydantic_ai.Agent(ScriptedModel([], repeats=True)).run("x")


async def test_a_wait_is_waited_for() -> None:
    model = ScriptedModel([["Well", Wait(0.05), ", yes."]])
    began = time.monotonic()
    assert [word async for word in model.stream([{"role": "user", "content": "?"}])] == ["Well", ",", " yes."]
    assert time.monotonic() - began >= 0.05


def test_a_function_asks_it_by_itself() -> None:
    model = ScriptedModel(["In words.", [Call("add", {"a": 1, "b": 2}, id="c")]])

    async def words(messages: list[Json]) -> AsyncIterator[str]:
        async for word in model.stream(messages):
            yield word

    (answer,) = asked(words, "Tell me.")
    assert answer.json()["output"] == "In words."
    assert model.asked == [[{"role": "user", "content": "Tell me."}]]
    assert asyncio.run(model.answer([])) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}],
    }


def test_a_call_that_is_no_json_is_told_to_the_model_as_its_error() -> None:
    model = ScriptedModel([Call("add", '{"a": '), "I give up."])
    (answer,) = asked(Agent("broken", model=model, tools=[add]), "go")
    assert answer.json()["output"] == "I give up."
    assert model.asked[1][-1].parts[-1].outcome == "retried"


async def test_structured_output_is_a_call_of_its_tool() -> None:
    class Sum(pydantic.BaseModel):
        total: int

    agent = pydantic_ai.Agent(ScriptedModel([Call("final_result", {"total": 3})]), output_type=Sum)
    assert (await agent.run("1 + 2")).output == Sum(total=3)


def test_what_no_reply_can_be_is_refused_when_it_is_written_down() -> None:
    with pytest.raises(TypeError, match="42 cannot be part of a reply: use text, Call, Thought, Wait or an exception"):
        ScriptedModel([["fine", 42]])  # type: ignore[list-item]


def test_an_agent_shows_it_as_its_model() -> None:
    told = Agent("it", model=ScriptedModel(["hi"], name="parrot"))
    app = ServerBase()
    app.agent("it")(told)
    with create_test_client(app) as client:
        shown = client.get("/agents/it").json()
    assert (shown["model"], shown["provider"]) == ("test:parrot", "test")


def test_the_framework_is_loaded_only_where_the_model_is_used() -> None:
    program = "import sys, innkeeper.testing; assert 'pydantic_ai' not in sys.modules; innkeeper.testing.ScriptedModel"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
