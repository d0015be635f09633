"""Tools that the client brings and answers: single, parallel, streamed, and followed up to the end."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageFunctionToolCall

from tests.openai.hosts import MODEL_AGENTS
from tests.support.openai_upstream import Reply, Upstream

ASK: list[Any] = [{"role": "user", "content": "How is the weather in Paris and Rome?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather in a city.", "parameters": SCHEMA, "strict": True},
}
PARIS, ROME = ("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})


def calls_of(message: ChatCompletionMessage) -> list[ChatCompletionMessageFunctionToolCall]:
    """The calls of a message, each of a function."""
    calls = message.tool_calls or []
    functions = [call for call in calls if isinstance(call, ChatCompletionMessageFunctionToolCall)]
    assert len(functions) == len(calls)
    return functions


def arguments_of(message: ChatCompletionMessage) -> list[Any]:
    return [json.loads(call.function.arguments) for call in calls_of(message)]


def answer_calls(message: ChatCompletionMessage) -> list[Any]:
    """The message and the client's answers to its calls, as a client's loop appends them."""
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"Sunny in {given['city']}"}
        for call, given in zip(calls_of(message), arguments_of(message), strict=True)
    ]
    return [message, *results]


def test_single_call_is_handed_to_the_client(client: openai.OpenAI, upstream: Upstream, model_agent: str) -> None:
    upstream.script([Reply(calls=(PARIS,))])
    (choice,) = client.chat.completions.create(model=model_agent, messages=ASK, tools=[WEATHER]).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = calls_of(choice.message)
    assert call.type == "function"
    assert call.id
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    (offered,) = upstream.requests[0].body["tools"]
    assert offered["function"]["name"] == "weather"
    assert offered["function"]["parameters"] == SCHEMA


def test_parallel_calls_are_answered_and_the_model_sees_the_results(
    client: openai.OpenAI, upstream: Upstream, model_agent: str
) -> None:
    upstream.script([Reply(calls=(PARIS, ROME)), "Sunny in both."])
    first = client.chat.completions.create(model=model_agent, messages=ASK, tools=[WEATHER])
    message = first.choices[0].message
    assert arguments_of(message) == [{"city": "Paris"}, {"city": "Rome"}]
    second = client.chat.completions.create(model=model_agent, messages=[*ASK, *answer_calls(message)], tools=[WEATHER])
    assert second.choices[0].message.content == "Sunny in both."
    assert second.choices[0].finish_reason == "stop"
    sent = upstream.requests[1].body["messages"]
    assert [said["role"] for said in sent if said["role"] != "system"] == ["user", "assistant", "tool", "tool"]
    assert [said["content"] for said in sent if said["role"] == "tool"] == ["Sunny in Paris", "Sunny in Rome"]


@pytest.mark.parametrize("name", MODEL_AGENTS)
def test_streamed_calls_have_index_id_and_type(client: openai.OpenAI, upstream: Upstream, name: str) -> None:
    upstream.script([Reply(calls=(PARIS, ROME))])
    chunks = list(client.chat.completions.create(model=name, messages=ASK, tools=[WEATHER], stream=True))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [call.index for call in deltas] == [0, 1]
    assert all(call.id and call.type == "function" and call.function and call.function.name for call in deltas)
    assert len({call.id for call in deltas}) == 2
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_stream_helper_puts_calls_together(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script([Reply("Let me look.", calls=(PARIS, ROME))])
    with client.chat.completions.stream(model="declared", messages=ASK, tools=[WEATHER]) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        message = stream.get_final_completion().choices[0].message
    assert [event.parsed_arguments for event in done] == [{"city": "Paris"}, {"city": "Rome"}]
    assert message.content == "Let me look."
    assert [call.function.name for call in message.tool_calls or ()] == ["weather", "weather"]


def test_session_continues_over_calls_without_loss_or_doubling(
    client: openai.OpenAI, http: httpx2.Client, upstream: Upstream, model_agent: str
) -> None:
    upstream.script([Reply("Let me look.", calls=(PARIS,)), Reply(calls=(ROME,)), "Sunny in both."])
    session = f"calls-{model_agent}"
    messages: list[Any] = list(ASK)
    while True:
        answer = client.chat.completions.create(
            model=model_agent, messages=messages, tools=[WEATHER], metadata={"session_id": session}
        )
        message = answer.choices[0].message
        messages += answer_calls(message)
        if not message.tool_calls:
            break
    stored = http.get(f"/sessions/{session}").json()["messages"]
    roles = ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert [said["role"] for said in stored] == roles
    assert [said["content"] for said in stored] == [ASK[0]["content"], "Let me look.", "Sunny in Paris", None,
        "Sunny in Rome", "Sunny in both."]  # fmt: skip
    assert [said["role"] for said in upstream.requests[2].body["messages"] if said["role"] != "system"] == roles[:-1]


def test_results_alone_continue_a_session(
    client: openai.OpenAI, http: httpx2.Client, upstream: Upstream, model_agent: str
) -> None:
    upstream.script([Reply(calls=(PARIS,)), "Sunny."])
    session = f"results-{model_agent}"
    metadata = {"session_id": session}
    first = client.chat.completions.create(model=model_agent, messages=ASK, tools=[WEATHER], metadata=metadata)
    _, *results = answer_calls(first.choices[0].message)
    client.chat.completions.create(model=model_agent, messages=results, tools=[WEATHER], metadata=metadata)
    sent = upstream.requests[1].body["messages"]
    assert [said["role"] for said in sent if said["role"] != "system"] == ["user", "assistant", "tool"]
    stored = http.get(f"/sessions/{session}").json()["messages"]
    assert [said["role"] for said in stored] == ["user", "assistant", "tool", "assistant"]


CHOICES: list[Any] = [
    ("auto", "auto"),
    ("none", "none"),
    ("required", "required"),
    ({"type": "function", "function": {"name": "weather"}}, {"type": "function", "function": {"name": "weather"}}),
]


@pytest.mark.parametrize(("choice", "passed_on"), CHOICES)
def test_every_tool_choice_reaches_the_model(
    client: openai.OpenAI, upstream: Upstream, model_agent: str, choice: Any, passed_on: Any
) -> None:
    upstream.script([Reply("ok") if choice in ("auto", "none") else Reply(calls=(PARIS,))])
    client.chat.completions.create(model=model_agent, messages=ASK, tools=[WEATHER], tool_choice=choice)
    body = upstream.requests[0].body
    if isinstance(passed_on, dict) and body["tool_choice"] == "required":
        assert [tool["function"]["name"] for tool in body["tools"]] == ["weather"], "the only tool is required"
    elif passed_on == "none" and "tools" not in body:
        pass  # no tools offered is the same
    elif passed_on == "auto":
        assert body.get("tool_choice", "auto") == "auto"
    else:
        assert body["tool_choice"] == passed_on


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_narrow_the_choice(
    client: openai.OpenAI, upstream: Upstream, model_agent: str, mode: str
) -> None:
    other: Any = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}
    named = [{"type": "function", "function": {"name": "weather"}}]
    choice: Any = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
    upstream.script([Reply(calls=(PARIS,))])
    answer = client.chat.completions.create(model=model_agent, messages=ASK, tools=[other, WEATHER], tool_choice=choice)
    assert answer.choices[0].finish_reason == "tool_calls"
    body = upstream.requests[0].body
    if isinstance(asked := body.get("tool_choice", "auto"), dict):
        function = {"type": "function", "function": {"name": "weather"}}
        assert asked == function or asked["allowed_tools"] == choice["allowed_tools"]
    else:
        assert asked == mode
        assert [tool["function"]["name"] for tool in body["tools"]] == ["weather"]


def test_parallel_tool_calls_false_reaches_the_model(
    client: openai.OpenAI, upstream: Upstream, model_agent: str
) -> None:
    upstream.script(["ok"])
    client.chat.completions.create(model=model_agent, messages=ASK, tools=[WEATHER], parallel_tool_calls=False)
    assert upstream.requests[0].body["parallel_tool_calls"] is False


@pytest.mark.parametrize("name", ["echo", "declared", "sdk"])
def test_hosted_and_unknown_tools_are_ignored(client: openai.OpenAI, upstream: Upstream, name: str) -> None:
    tools: Any = [
        {"type": "web_search"},
        {"type": "namespace", "name": "n", "tools": []},
        {"type": "custom", "custom": {"name": "c"}},
    ]
    answer = client.chat.completions.create(model=name, messages=ASK, tools=tools)
    assert answer.choices[0].finish_reason == "stop"
    assert all("tools" not in request.body for request in upstream.requests)


@pytest.mark.parametrize("name", ["echo", "declared", "sdk"])
def test_empty_tools_are_no_tools(client: openai.OpenAI, name: str) -> None:
    assert client.chat.completions.create(model=name, messages=ASK, tools=[]).choices[0].finish_reason == "stop"


def test_tool_without_a_name_is_refused(client: openai.OpenAI) -> None:
    broken: Any = {"type": "function", "function": {"parameters": {}}}
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="declared", messages=ASK, tools=[broken])
    assert refusal.value.param == "tools[0].function.name"


def test_scripted_model_calls_a_tool_that_the_client_brings(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": 'call weather {"city": "Oslo"}'}], tools=[WEATHER]
    )
    assert arguments_of(answer.choices[0].message) == [{"city": "Oslo"}]


async def test_async_loop_runs_tools_to_the_end(async_client: openai.AsyncOpenAI, upstream: Upstream) -> None:
    upstream.script([Reply(calls=(PARIS, ROME)), "Sunny in both."])
    messages: list[Any] = list(ASK)
    for _ in range(2):
        async with async_client.chat.completions.stream(model="sdk", messages=messages, tools=[WEATHER]) as stream:
            message = (await stream.get_final_completion()).choices[0].message
        messages += answer_calls(message)
    assert message.content == "Sunny in both."
