"""Chat completions through OpenAI's own clients, which check every answer against their types."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest

from tests.openai.hosts import KEY, Host
from tests.support.openai_upstream import Reply, Upstream

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def test_function_agent_answers_a_completion(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="echo", messages=HELLO)
    assert completion.id.startswith("chatcmpl-")
    assert completion.object == "chat.completion"
    assert completion.model == "echo"
    (choice,) = completion.choices
    assert (choice.index, choice.finish_reason) == (0, "stop")
    assert (choice.message.role, choice.message.content) == ("assistant", "You said: Hello ")
    assert completion.system_fingerprint
    assert completion.usage is None, "the agent reported none"


async def test_async_client_gets_the_same(async_client: openai.AsyncOpenAI) -> None:
    completion = await async_client.chat.completions.create(model="echo", messages=HELLO)
    assert completion.choices[0].message.content == "You said: Hello "


def test_function_agents_own_finish_reason_and_usage_are_told(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="whole", messages=HELLO)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.to_dict() == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_model_agents_answer_with_their_models_text_and_usage(
    client: openai.OpenAI, upstream: Upstream, model_agent: str
) -> None:
    upstream.script([Reply("Good morning.", usage=(12, 3))])
    completion = client.chat.completions.create(model=model_agent, messages=HELLO)
    assert completion.model == model_agent
    assert completion.choices[0].message.content == "Good morning."
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (12, 3)
    assert completion.usage.total_tokens == 15


def test_limit_of_the_model_is_told_as_length(client: openai.OpenAI, upstream: Upstream, model_agent: str) -> None:
    upstream.script([Reply("One two", finish="length")])
    completion = client.chat.completions.create(model=model_agent, messages=HELLO, max_completion_tokens=2)
    assert completion.choices[0].finish_reason == "length"
    assert completion.choices[0].message.content == "One two"


def test_scripted_pydantic_ai_agents_answer(client: openai.OpenAI) -> None:
    for name in ("scripted", "plain-pydantic"):
        completion = client.chat.completions.create(model=name, messages=HELLO)
        assert completion.choices[0].message.content == "You said: Hello"


@pytest.mark.parametrize("name", ["echo", "declared", "sdk"])
def test_agents_own_path_is_a_base_url(host: Host, name: str) -> None:
    with openai.OpenAI(
        base_url=f"{host.url}/{name}", api_key=KEY, max_retries=0, _strict_response_validation=True
    ) as client:
        completion = client.chat.completions.create(model="gpt-4o", messages=HELLO)
        streamed = list(client.chat.completions.create(model="", messages=HELLO, stream=True))
    assert completion.model == name, "the path names the agent"
    assert (completion.choices[0].message.content or "").strip() == "You said: Hello"
    assert {chunk.model for chunk in streamed} == {name}


def test_empty_model_is_the_default_agent(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="", messages=HELLO).model == "echo"


def test_answer_names_its_run_and_carries_the_request_id(http: httpx2.Client) -> None:
    answer = http.post(
        "/v1/chat/completions", json={"model": "echo", "messages": HELLO}, headers={"X-Request-ID": "my-id"}
    )
    assert answer.headers["x-request-id"] == "my-id"
    assert answer.headers["x-response-time"].endswith("ms")
    run = http.get(f"/runs/{answer.headers['x-run-id']}").json()
    assert (run["status"], run["session_id"]) == ("completed", answer.json()["system_fingerprint"])


def test_reasoning_stands_beside_the_content(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model="thinking", messages=HELLO).choices[0].message
    assert message.content == "42"
    assert message.to_dict()["reasoning_content"] == "Hm. Yes."
