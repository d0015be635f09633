"""What every runtime's tests start from: a context as the server makes it, and a way to see a whole run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from innkeeper.core.context import RunContext
from innkeeper.core.events import AgentEvent
from innkeeper.core.messages import Message
from innkeeper.ports.agents import Runtime
from innkeeper.testing.runtimes import new_context, play
from tests.support.openai_upstream import Upstream, running_upstream

MakeContext = Callable[..., RunContext]
Collect = Callable[..., Awaitable[list[AgentEvent]]]


@pytest.fixture
def make_context() -> MakeContext:
    """`make_context(request=None, agent_data=None)` is a fresh `RunContext`."""

    def made(request: Any = None, agent_data: Any = None) -> RunContext:
        context = new_context(request)
        context.agent_data = agent_data
        return context

    return made


@pytest.fixture
def collect() -> Collect:
    """`await collect(runtime, "hi", stream=True)` runs one turn and returns its events.

    A string is a user's message; `context=` hands in a context, other keywords are `Turn`'s.
    """

    async def collected(runtime: Runtime, *messages: str | Message, **turn: Any) -> list[AgentEvent]:
        return await play(runtime, *(messages or ("hi",)), **turn)

    return collected


@pytest.fixture(scope="session")
def running_provider() -> Iterator[Upstream]:
    with running_upstream() as running:
        yield running


@pytest.fixture
def upstream(running_provider: Upstream) -> Upstream:
    """A model provider at `upstream.url`, with nothing scripted and nothing asked yet."""
    running_provider.forget()
    return running_provider
