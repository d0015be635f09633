"""A server with an agent of every kind on a real port, the scripted provider behind it, and OpenAI's own clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import agents
import httpx2
import openai
import pydantic_ai
import pytest

from innkeeper import Agent, ServerBase
from innkeeper.config import load_settings
from innkeeper.runtimes.scripted import scripted_model
from tests.openai.hosts import KEY, MODEL_AGENTS, Host, declare_functions
from tests.support.openai_upstream import Upstream, running_upstream
from tests.support.pydantic_agents import add
from tests.support.servers import serve_app


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Upstream]]:
    """One server and one provider for the tests of a module."""
    with running_upstream() as upstream, pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENAI_BASE_URL", upstream.url)
        environment.setenv("OPENAI_API_KEY", "sk-upstream")
        app = ServerBase(settings=load_settings({"data_dir": tmp_path_factory.mktemp("data")}))
        host = Host()
        declare_functions(app, host)
        app.agent("scripted")(Agent("scripted", model="test"))
        app.agent("plain-pydantic")(pydantic_ai.Agent(scripted_model()))
        app.agent("declared")(Agent("declared", model="openai:gpt-test", instructions="Be brief."))
        app.agent("pydantic")(pydantic_ai.Agent("openai:gpt-test", instructions="Be brief.", defer_model_check=True))
        app.agent("sdk")(agents.Agent("sdk", model="gpt-test", instructions="Be brief."))
        app.agent("tooled")(Agent("tooled", model="openai:gpt-test", tools=[add]))
        app.agent("tooled-sdk")(agents.Agent("tooled-sdk", model="gpt-test", tools=[agents.function_tool(add)]))
        with serve_app(app) as host.url:
            yield host, upstream


@pytest.fixture
def host(stage: tuple[Host, Upstream]) -> Host:
    """The server, with nothing seen yet."""
    stage[0].forget()
    return stage[0]


@pytest.fixture
def upstream(stage: tuple[Host, Upstream]) -> Upstream:
    """The provider that `declared`, `pydantic` and `sdk` ask, with no requests and no script yet."""
    stage[1].forget()
    return stage[1]


@pytest.fixture
def http(host: Host) -> Iterator[httpx2.Client]:
    """A plain HTTP client of the server."""
    with httpx2.Client(base_url=host.url, timeout=20) as client:
        yield client


@pytest.fixture
def client(host: Host) -> Iterator[openai.OpenAI]:
    """OpenAI's client, which checks every answer against its own types and never tries again."""
    with openai.OpenAI(
        base_url=f"{host.url}/v1", api_key=KEY, max_retries=0, timeout=20, _strict_response_validation=True
    ) as made:
        yield made


@pytest.fixture
async def async_client(host: Host) -> AsyncIterator[openai.AsyncOpenAI]:
    """The same, async."""
    async with openai.AsyncOpenAI(
        base_url=f"{host.url}/v1", api_key=KEY, max_retries=0, timeout=20, _strict_response_validation=True
    ) as made:
        yield made


@pytest.fixture(params=MODEL_AGENTS)
def model_agent(request: pytest.FixtureRequest) -> str:
    """The name of an agent whose model is the scripted provider: one of each framework."""
    return str(request.param)
