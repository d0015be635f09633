"""The server of the OpenAI tests, and one whose agents say what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import openai
import pytest

from tests.openai.conftest import async_client, client, host, http, model_agent, stage, upstream
from tests.openai.hosts import KEY
from tests.support.inns import Inn, running_inn

__all__ = ["async_client", "client", "host", "http", "model_agent", "stage", "upstream"]


@pytest.fixture(scope="package")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    with running_inn(tmp_path_factory.mktemp("data")) as inn:
        yield inn


@pytest.fixture
def inn(played: Inn) -> Inn:
    played.seen.clear()
    return played


@pytest.fixture
async def sdk(inn: Inn) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client of that server, which checks every answer against its own types."""
    async with openai.AsyncOpenAI(
        base_url=f"{inn.url}/v1", api_key=KEY, max_retries=0, timeout=20, _strict_response_validation=True
    ) as made:
        yield made


@pytest.fixture
def plain(inn: Inn) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=inn.url, timeout=20) as made:
        yield made
