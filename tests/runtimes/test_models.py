"""Models: what a "provider:model" string stands for, and what is said when it cannot be had."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

from innkeeper.core.errors import AgentFailed
from innkeeper.runtimes.models import Models, build
from innkeeper.runtimes.settings import RuntimeSettings
from tests.support.openai_upstream import Reply, Upstream


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.endswith(("_API_KEY", "_BASE_URL", "_ORGANIZATION"))]:
        monkeypatch.delenv(name)


@pytest.fixture
async def models(upstream: Upstream) -> AsyncIterator[Models]:
    environment = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": upstream.url, "OPENAI_ORGANIZATION": "org-1"}
    known = Models(RuntimeSettings(environment))
    yield known
    await known.close()


async def answer(model: Model, prompt: str) -> str:
    return (await Agent(model).run(prompt)).output


async def test_key_base_url_and_organization_come_from_the_settings_and_not_from_the_process(
    models: Models, upstream: Upstream
) -> None:
    before = dict(os.environ)
    assert await answer(await models.get("openai:gpt-4o"), "hello") == "You said: hello"
    (request,) = upstream.requests
    assert request.body["model"] == "gpt-4o"
    assert request.headers["authorization"] == "Bearer sk-1"
    assert request.headers["openai-organization"] == "org-1"
    assert dict(os.environ) == before


async def test_a_server_behind_openai_base_url_is_asked_over_chat_completions(models: Models) -> None:
    assert isinstance(await models.get("openai:gpt-4o"), OpenAIChatModel)
    assert isinstance(await models.get("openai-responses:gpt-4o"), OpenAIResponsesModel)


def test_openai_itself_is_asked_over_responses() -> None:
    model = build("openai:gpt-4o", {"OPENAI_API_KEY": "sk-1"})
    assert isinstance(model, OpenAIResponsesModel)
    assert model.base_url == "https://api.openai.com/v1/"


def test_a_server_of_ones_own_needs_no_key(upstream: Upstream) -> None:
    model = build("openai:llama", {"OPENAI_BASE_URL": upstream.url})
    assert asyncio.run(_asked_and_closed(model)) == "You said: hi"


async def _asked_and_closed(model: Model) -> str:
    try:
        return await answer(model, "hi")
    finally:
        await model.provider.client.close()  # type: ignore[union-attr]  # OpenAI's providers have one


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai:gpt-4o", "OPENAI_API_KEY"),
        ("openai-chat:gpt-4o", "OPENAI_API_KEY"),
        ("deepseek:deepseek-chat", "DEEPSEEK_API_KEY"),
        ("anthropic:claude-sonnet-4-5", "anthropic"),
        ("gpt-4o", "provider:model"),
        ("nonsense:gpt-4o", "nonsense:gpt-4o"),
    ],
)
def test_what_is_missing_is_named(name: str, said: str) -> None:
    with pytest.raises(AgentFailed, match=said):
        build(name, {})


def test_other_providers_get_their_own_key() -> None:
    model = build("deepseek:deepseek-chat", {"DEEPSEEK_API_KEY": "ds-1", "OPENAI_API_KEY": "sk-1"})
    assert model.provider is not None
    assert model.provider.client.api_key == "ds-1"


async def test_a_model_is_built_once_for_an_event_loop(models: Models) -> None:
    first, second = await asyncio.gather(models.get("openai:gpt-4o"), models.get("openai:gpt-4o"))
    assert first is second


def test_each_event_loop_has_connections_of_its_own(upstream: Upstream) -> None:
    models = Models(RuntimeSettings({"OPENAI_BASE_URL": upstream.url}))

    async def ask() -> str:
        try:
            return await answer(await models.get("openai:gpt-4o"), "hello")
        finally:
            await models.close()

    assert [asyncio.run(ask()) for _ in range(3)] == ["You said: hello"] * 3


async def test_an_error_of_the_provider_is_raised(models: Models, upstream: Upstream) -> None:
    upstream.script([Reply(status=500)])
    with pytest.raises(Exception, match="500"):
        await answer(await models.get("openai:gpt-4o"), "hello")
