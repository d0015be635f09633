"""Agents as OpenAI models."""

from __future__ import annotations

import httpx2
import openai
import pytest

from tests.openai.hosts import KEY, Host

NAMES = ["echo", "whole", "thinking", "failing", "breaking", "patient", "telling", "fast:er", "scripted"]


def test_models_are_the_agents_in_order_of_registration(client: openai.OpenAI) -> None:
    listed = list(client.models.list())
    assert [model.id for model in listed][: len(NAMES)] == NAMES
    assert {model.object for model in listed} == {"model"}
    assert all(model.owned_by and model.created > 1_700_000_000 for model in listed)


async def test_async_client_lists_them_too(async_client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in async_client.models.list()][: len(NAMES)] == NAMES


def test_model_tells_its_provider_and_what_it_can_do(client: openai.OpenAI) -> None:
    told = {model.id: model.to_dict() for model in client.models.list()}
    assert told["echo"]["provider"] == "innkeeper"
    assert told["echo"]["capabilities"] == ["chat", "streaming"]
    assert told["declared"]["provider"] == "openai"
    assert told["declared"]["capabilities"] == ["chat", "streaming", "tools"]


def test_one_model_is_retrieved_by_its_name(client: openai.OpenAI) -> None:
    assert client.models.retrieve("echo").id == "echo"
    assert client.models.retrieve("fast:er").id == "fast:er"


@pytest.mark.parametrize("name", ["nobody", "meta-llama/Llama-3", "a:b/c"])
def test_unknown_model_is_not_found_whatever_its_name_looks_like(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve(name)
    assert missing.value.code == "AGENT_NOT_FOUND"
    assert repr(name) in missing.value.message


def test_model_ids_with_a_colon_are_served(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fast:er", messages=[{"role": "user", "content": "Hi"}])
    assert (answer.model, answer.choices[0].message.content) == ("fast:er", "Faster.")


def test_agents_own_routes_tell_where_it_answers(http: httpx2.Client) -> None:
    endpoints = {"info": "/echo", "chat": "/echo/chat/completions"}
    assert http.get("/echo").json() == {"agent": "echo", "description": "Says what it heard.", "endpoints": endpoints}
    posted = http.post("/echo").json()
    assert (posted["agent"], posted["endpoints"]) == ("echo", endpoints)
    assert posted["message"]
    assert http.get("/echo/chat/completions").json() == {
        "endpoint": "/echo/chat/completions",
        "agent": "echo",
        "openai_compatible": True,
        "supports_streaming": True,
    }
    assert http.get("/nobody").json()["error"]["code"] == "AGENT_NOT_FOUND"


def test_models_need_a_credential_from_elsewhere(host: Host) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    with (
        openai.OpenAI(base_url=f"{host.url}/v1", api_key=KEY, max_retries=0, default_headers=forwarded) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()
