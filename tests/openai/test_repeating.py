"""OpenAI's clients with an `Idempotency-Key`: what they ask again is not run again, and is answered alike."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.openai.hosts import MODEL_AGENTS, Host
from tests.support.openai_upstream import Reply, Upstream

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("name", ["echo", *MODEL_AGENTS])
def test_a_completion_that_is_asked_again_is_the_same_to_the_client(
    client: openai.OpenAI, upstream: Upstream, name: str
) -> None:
    upstream.script([Reply("Good morning.", usage=(3, 2))])
    key = {"Idempotency-Key": f"whole {name}"}
    first, again = (client.chat.completions.create(model=name, messages=HELLO, extra_headers=key) for _ in range(2))
    assert again == first
    assert len(upstream.requests) <= 1, "the model is not asked again"


@pytest.mark.parametrize("name", ["echo", *MODEL_AGENTS])
def test_chunks_that_are_asked_for_again_are_the_same(client: openai.OpenAI, upstream: Upstream, name: str) -> None:
    upstream.script([Reply("Good morning.", usage=(3, 2))])
    key = {"Idempotency-Key": f"chunks {name}"}
    first, again = (
        list(client.chat.completions.create(model=name, messages=HELLO, stream=True, extra_headers=key))
        for _ in range(2)
    )
    assert again == first


def test_calls_of_the_clients_tools_are_the_same_again(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script([Reply(calls=(("look", {}),))])
    key = {"Idempotency-Key": "tools"}
    first, again = (
        client.chat.completions.create(model="declared", messages=HELLO, tools=[TOOL], extra_headers=key)
        for _ in range(2)
    )
    assert first.choices[0].message.tool_calls
    assert again == first


def test_another_request_with_the_key_is_an_error_that_is_not_tried_again(host: Host, client: openai.OpenAI) -> None:
    key = {"Idempotency-Key": "mismatch"}
    client.chat.completions.create(model="echo", messages=HELLO, extra_headers=key)
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.with_options(max_retries=2).chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "Else"}], extra_headers=key
        )
    assert refused.value.code == "IDEMPOTENCY_MISMATCH"
    assert len(host.seen) == 1
