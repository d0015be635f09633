"""Tools of the client: called, answered by what follows, in either way that clients send it; and structured output."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.openai.hosts import MODEL_AGENTS
from tests.support.openai_upstream import Reply, Upstream

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "name": "weather", "description": "Weather.", "parameters": SCHEMA, "strict": True}
PARIS, ROME = ("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})


def answers(output: list[Any]) -> list[Any]:
    return [
        {"type": "function_call_output", "call_id": item.call_id, "output": f"Sunny in {item.name}"}
        for item in output
        if item.type == "function_call"
    ]


def roles(upstream: Upstream) -> list[str]:
    """Who spoke in the last request to the model, but for instructions."""
    said = upstream.requests[-1].body["messages"]
    return [message["role"] for message in said if message["role"] not in ("system", "developer")]


@pytest.mark.parametrize("streams", [False, True])
def test_calls_are_handed_out_and_their_outputs_follow(
    client: openai.OpenAI, upstream: Upstream, model_agent: str, streams: bool
) -> None:
    upstream.script([Reply("Let me see.", calls=(PARIS, ROME)), "Sunny in both."])
    if streams:
        with client.responses.stream(model=model_agent, input="Weather?", tools=[WEATHER]) as stream:
            first: Any = stream.get_final_response()
    else:
        first = client.responses.create(model=model_agent, input="Weather?", tools=[WEATHER])
    assert [item.type for item in first.output] == ["message", "function_call", "function_call"]
    assert [json.loads(item.arguments) for item in first.output[1:]] == [{"city": "Paris"}, {"city": "Rome"}]
    assert first.tools[0].to_dict() == WEATHER
    second = client.responses.create(
        model=model_agent, input=answers(first.output), previous_response_id=first.id, tools=[WEATHER]
    )
    assert second.output_text == "Sunny in both."
    assert roles(upstream) == ["user", "assistant", "tool", "tool"]
    (offered,) = upstream.requests[0].body["tools"]
    assert offered["function"]["parameters"] == SCHEMA


@pytest.mark.parametrize("way", ["verbatim", "references", "unstored"])
def test_outputs_come_with_the_calls_themselves(client: openai.OpenAI, upstream: Upstream, way: str) -> None:
    upstream.script([Reply(calls=(PARIS,)), "Sunny."])
    first = client.responses.create(model="declared", input="Weather?", tools=[WEATHER], store=way != "unstored")
    sent: list[Any] = [item.to_dict() for item in first.output]
    if way == "references":
        sent = [{"type": "item_reference", "id": item["id"]} for item in sent]
    sent = [{"role": "user", "content": "Weather?"}, *sent, *answers(first.output)]
    second = client.responses.create(model="declared", input=sent, tools=[WEATHER], store=way != "unstored")
    assert second.output_text == "Sunny."
    assert roles(upstream) == ["user", "assistant", "tool"]


def test_what_was_asked_can_be_referred_to_as_what_was_answered(client: openai.OpenAI, upstream: Upstream) -> None:
    first = client.responses.create(model="declared", input="Hello")
    (asked,) = client.responses.input_items.list(first.id).data
    sent: list[Any] = [{"type": "item_reference", "id": one.to_dict()["id"]} for one in (asked, first.output[0])]
    client.responses.create(model="declared", input=[*sent, {"role": "user", "content": "Again"}])
    assert roles(upstream) == ["user", "assistant", "user"]


def test_output_of_a_call_that_nobody_made_is_refused(client: openai.OpenAI, upstream: Upstream) -> None:
    first = client.responses.create(model="declared", input="Hello")
    stray: list[Any] = [{"type": "function_call_output", "call_id": "call_stray", "output": "x"}]
    for named in (first.id, openai.omit):
        with pytest.raises(openai.BadRequestError, match="call_stray"):
            client.responses.create(model="declared", input=stray, previous_response_id=named)


def test_tools_that_cannot_be_offered_are_refused_by_their_places(client: openai.OpenAI) -> None:
    hosted: Any = {"type": "web_search"}
    shapeless: Any = {**WEATHER, "parameters": []}
    for tools, named in (([hosted, WEATHER, WEATHER], "tools[2].name"), ([hosted, shapeless], "tools[1].parameters")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model="declared", input="Hello", tools=tools)
        assert caught.value.param == named


CHOICES: list[Any] = [
    ("none", ["none"]),
    ("required", ["required"]),
    ({"type": "function", "name": "weather"}, ["required", {"type": "function", "function": {"name": "weather"}}]),
    ({"type": "web_search_preview"}, ["auto", None]),
]


@pytest.mark.parametrize(("choice", "told"), CHOICES)
def test_tool_choice_reaches_the_model(client: openai.OpenAI, upstream: Upstream, choice: Any, told: Any) -> None:
    upstream.script([Reply(calls=(PARIS,))])
    client.responses.create(model="declared", input="Weather?", tools=[WEATHER], tool_choice=choice)
    assert upstream.requests[0].body.get("tool_choice") in told


class City(BaseModel):
    name: str


@pytest.mark.parametrize("name", MODEL_AGENTS)
def test_structured_output_is_parsed(client: openai.OpenAI, upstream: Upstream, name: str) -> None:
    upstream.script([Reply('{"name": "Paris"}')])
    parsed = client.responses.parse(model=name, input="Which city?", text_format=City)
    assert parsed.output_parsed == City(name="Paris")
    assert upstream.requests[0].body["response_format"]["json_schema"]["schema"]["properties"].keys() == {"name"}


def test_sampling_and_reasoning_reach_the_model(client: openai.OpenAI, upstream: Upstream) -> None:
    client.responses.create(
        model="declared", input="Hi", temperature=0.3, max_output_tokens=50, reasoning={"effort": "low"},
        instructions="Just once.",
    )  # fmt: skip
    body = upstream.requests[0].body
    assert body["temperature"] == 0.3
    assert 50 in (body.get("max_tokens"), body.get("max_completion_tokens"))
    assert "Just once." in json.dumps(body["messages"])
