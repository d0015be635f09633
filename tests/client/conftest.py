"""A real server with the agent of the documented examples, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from innkeeper import ServerBase
from innkeeper.client import AsyncChatServerClient, ChatServerClient
from innkeeper.config import load_settings
from innkeeper.core.events import TextDelta, UsageReported
from innkeeper.core.usage import Usage
from tests.support.inns import UNCOUNTED, Inn, Json, serve_inn
from tests.support.tokens import a_token

MODEL = "claude-3-haiku"


@pytest.fixture(scope="module")
def inn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path_factory.mktemp("data"), **UNCOUNTED}))

    @app.agent(MODEL)
    async def haiku(messages: list[Json]) -> AsyncIterator[TextDelta | UsageReported]:
        """Answers at length, with its consumption."""
        for word in ("An old ", "pond, ", f"{len(messages)} frogs."):
            yield TextDelta(word)
        yield UsageReported(Usage(12, 8, "a-model"))

    with serve_inn(app) as inn:
        yield inn


@pytest.fixture
def client(inn: Inn) -> Iterator[ChatServerClient]:
    with ChatServerClient(base_url=inn.url) as client:
        yield client


@pytest.fixture
async def async_client(inn: Inn) -> AsyncIterator[AsyncChatServerClient]:
    async with AsyncChatServerClient(base_url=inn.url) as client:
        yield client


@pytest.fixture(scope="module")
def admin_key(inn: Inn) -> str:
    return a_token(inn.app.kernel.settings, "boss", "admin").text


@pytest.fixture
def admin(inn: Inn, admin_key: str) -> Iterator[ChatServerClient]:
    with ChatServerClient(admin_key, inn.url) as client:
        yield client
