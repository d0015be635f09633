"""Pydantic AI agents as runtimes: what a conversation and a request become on their way to the model."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo

from innkeeper.core.context import RunContext
from innkeeper.core.events import (
    AgentEvent,
    FinishNoted,
    TextDelta,
    ToolCalled,
    ToolReturned,
)
from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.runs import Parameters
from tests.support.plays import only, text_of
from tests.support.pydantic_agents import CALL_WEATHER, WEATHER, Ear, add, agent_of, calling, scripted, served

Collect = Callable[..., Awaitable[list[AgentEvent]]]
MakeContext = Callable[..., RunContext]


class City(BaseModel):
    name: str
    people: int


async def test_the_conversation_reaches_the_model_with_its_tool_calls(collect: Collect) -> None:
    ear = Ear()
    await collect(
        served(ear.agent),
        Message("system", "Be brief."),
        Message("user", "add"),
        Message("assistant", "Wait.", (ToolUse("c1", "add", '{"a":1}'),)),
        Message("tool", "3", tool_call_id="c1"),
        Message("assistant", "3.", (ToolUse("c2", "lost", "{}"),)),
        Message("user", "thanks"),
    )
    assert ear.info is not None and ear.info.instructions == "Be brief."
    shown = [
        (type(part), getattr(part, "content", None) or part.args)
        for part in ear.parts
        if getattr(part, "tool_call_id", "") != "c2"
    ]
    assert shown == [
        (UserPromptPart, "add"),
        (TextPart, "Wait."),
        (ToolCallPart, '{"a":1}'),
        (ToolReturnPart, "3"),
        (TextPart, "3."),
        (UserPromptPart, "thanks"),
    ]
    answered = [part.tool_call_id for part in ear.parts if isinstance(part, ToolReturnPart)]
    assert sorted(answered) == ["c1", "c2"], "a call that nobody answered is closed, or the provider refuses it"


async def test_an_agents_system_prompt_is_there_in_every_turn(collect: Collect) -> None:
    ear = Ear()
    agent = Agent(ear.agent.model, system_prompt="You are an owl.")
    await collect(served(agent), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert ear.parts[0].content == "You are an owl."


async def test_pictures_and_files_reach_the_model_unfetched(collect: Collect) -> None:
    ear = Ear()
    data = base64.b64encode(b"png").decode()
    content = (
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "image_url", "image_url": {"url": "https://example.invalid/a.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
    )
    await collect(served(ear.agent), Message("user", content))
    text, picture, link, file = ear.parts[-1].content
    assert text == "what?"
    assert isinstance(picture, BinaryContent) and (picture.data, picture.media_type) == (b"png", "image/png")
    assert isinstance(link, ImageUrl) and link.url == "https://example.invalid/a.png"
    assert isinstance(file, BinaryContent) and (file.data, file.media_type) == (b"png", "application/pdf")


async def test_a_request_stands_above_the_server_and_both_above_theagent_of(collect: Collect) -> None:
    ear = Ear()
    agent = Agent(ear.agent.model, model_settings={"temperature": 0.1, "max_tokens": 1, "top_p": 0.3, "seed": 1})
    asked = Parameters(temperature=0.9, seed=2, stop=("END",), presence_penalty=0.5, parallel_tool_calls=False)
    await collect(served(agent, temperature=0.5, max_tokens=5), "hi", parameters=asked)
    assert ear.settings == {
        "temperature": 0.9,
        "max_tokens": 5,
        "top_p": 0.3,
        "seed": 2,
        "stop_sequences": ["END"],
        "presence_penalty": 0.5,
        "parallel_tool_calls": False,
    }


async def test_a_clients_tool_ends_the_run_after_the_servers_own_tools(collect: Collect) -> None:
    asked = Parameters(tools=(WEATHER, {"type": "web_search"}))
    events = await collect(
        served(scripted(tools=[add])), f'{CALL_WEATHER}\ncall add {{"a": 1, "b": 2}}', parameters=asked
    )
    calls = [(event.tool_name, event.is_client_side) for event in only(ToolCalled, events)]
    assert calls == [("add", False), ("weather", True)]
    assert [event.tool_name for event in only(ToolReturned, events)] == ["add"]
    assert events[-1] == FinishNoted("tool_calls")
    assert text_of(events) == ""


async def test_a_clients_result_reaches_the_model_in_the_next_turn(collect: Collect) -> None:
    events = await collect(
        served(scripted(tools=[add])),
        Message("user", CALL_WEATHER),
        Message("assistant", None, (ToolUse("c1", "weather", '{"city": "Paris"}'),)),
        Message("tool", "sunny", tool_call_id="c1"),
        parameters=Parameters(tools=(WEATHER,)),
    )
    assert text_of(events) == "weather returned sunny."
    assert not only(ToolCalled, events)


async def test_a_demanded_tool_is_not_demanded_again_once_it_was_called(collect: Collect) -> None:
    choices: list[Any] = []

    async def script(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        choices.append((info.model_settings or {}).get("tool_choice"))
        async for piece in calling("add", a=1, b=2)(messages, info):
            yield piece

    runtime = served(agent_of(script, tools=[add]))
    assert text_of(await collect(runtime, "hi", parameters=Parameters(tool_choice="required"))) == "done"
    assert choices == ["required", None]


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("required", ["add"]),
        ({"type": "function", "function": {"name": "weather"}}, ["weather"]),
        ("auto", []),
        ("none", []),
        (None, []),
    ],
)
async def test_a_tool_choice_binds_the_first_model_call(collect: Collect, choice: Any, called: list[str]) -> None:
    asked = Parameters(tools=(WEATHER,), tool_choice=choice)
    events = await collect(served(scripted(tools=[add])), "hello", parameters=asked)
    assert [event.tool_name for event in only(ToolCalled, events)] == called


async def test_allowed_tools_narrow_the_agents_tools(collect: Collect) -> None:
    ear = Ear()
    agent = Agent(ear.agent.model, tools=[add, sorted_words])
    await collect(served(agent), "hi", parameters=Parameters(allowed_tools=("add",), tools=(WEATHER,)))
    assert ear.info is not None
    assert sorted(tool.name for tool in ear.info.function_tools) == ["add", "weather"]


def sorted_words(text: str) -> str:
    return " ".join(sorted(text.split()))


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "city", "schema": City.model_json_schema()}},
    ],
)
async def test_a_response_format_makes_the_text_json(collect: Collect, wanted: dict[str, Any]) -> None:
    events = await collect(served(scripted()), "hi", parameters=Parameters(response_format=wanted))
    assert len(only(TextDelta, events)) > 1, "it is streamed as the model writes it"
    answer = json.loads(text_of(events))
    if wanted["type"] == "json_schema":
        City.model_validate(answer)
