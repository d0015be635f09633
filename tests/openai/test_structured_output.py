"""Structured output: `response_format` and OpenAI's `parse`, for agents with a model."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.support.openai_upstream import Reply, Upstream

ASK: list[Any] = [{"role": "user", "content": "Where is the Louvre?"}]


class Place(BaseModel):
    city: str
    visitors: int


PLACE = json.dumps({"city": "Paris", "visitors": 9_000_000})


def test_parse_returns_the_model(client: openai.OpenAI, upstream: Upstream, model_agent: str) -> None:
    upstream.script([PLACE])
    answer = client.chat.completions.parse(model=model_agent, messages=ASK, response_format=Place)
    assert answer.choices[0].message.parsed == Place(city="Paris", visitors=9_000_000)
    asked = upstream.requests[0].body["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["schema"]["required"] == ["city", "visitors"]
    assert asked["json_schema"]["strict"] is True


async def test_async_parse_returns_the_model(async_client: openai.AsyncOpenAI) -> None:
    answer = await async_client.chat.completions.parse(model="scripted", messages=ASK, response_format=Place)
    assert isinstance(answer.choices[0].message.parsed, Place)


def test_stream_helper_parses(client: openai.OpenAI, upstream: Upstream, model_agent: str) -> None:
    upstream.script([PLACE])
    with client.chat.completions.stream(model=model_agent, messages=ASK, response_format=Place) as stream:
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert parsed == Place(city="Paris", visitors=9_000_000)


def test_json_object_is_asked_of_the_model(client: openai.OpenAI, upstream: Upstream, model_agent: str) -> None:
    upstream.script([PLACE])
    answer = client.chat.completions.create(model=model_agent, messages=ASK, response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content or "")["city"] == "Paris"
    assert upstream.requests[0].body["response_format"] == {"type": "json_object"}


def test_text_format_is_nothing_special(client: openai.OpenAI) -> None:
    for name in ("echo", "declared", "sdk"):
        answer = client.chat.completions.create(model=name, messages=ASK, response_format={"type": "text"})
        assert (answer.choices[0].message.content or "").startswith("You said:")


def test_truncated_json_is_a_length_error_in_the_client(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script([Reply('{"city": "Par', finish="length")])
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="declared", messages=ASK, response_format=Place)


def test_schema_is_refused_by_an_agent_without_a_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.parse(model="echo", messages=ASK, response_format=Place)
    assert refusal.value.param == "response_format"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_forced_tool_is_refused_by_an_agent_without_a_model(client: openai.OpenAI, choice: Any) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="echo", messages=ASK, tools=[tool], tool_choice=choice)
    assert refusal.value.param == "tool_choice"
