"""Objects as agents: `run`, `run_streamed`, and what they say about themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from innkeeper.core.context import RunContext
from innkeeper.core.errors import SetupError
from innkeeper.core.events import AgentEvent, FinishNoted, TextDelta, UsageReported
from innkeeper.core.usage import Pricing, Usage
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.objects import ObjectRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.testing import MockAgent, RuntimeContract

Messages = list[dict[str, Any]]
Collect = Callable[..., Awaitable[list[AgentEvent]]]


def served(agent: object) -> ObjectRuntime:
    return ObjectRuntime(agent, "agent", RuntimeSettings())


class Echo:
    async def run(self, messages: Messages) -> str:
        return str(messages[-1]["content"])


class StreamedEcho(Echo):
    async def run_streamed(self, messages: Messages) -> AsyncIterator[str]:
        for letter in messages[-1]["content"]:
            yield letter


class TestObject(RuntimeContract):
    def echo_runtime(self) -> Runtime:
        return served(StreamedEcho())

    def failing_runtime(self) -> Runtime:
        return served(MockAgent(error="no"))

    def slow_runtime(self) -> Runtime:
        return served(SimpleNamespace(run=lambda messages: time.sleep(0.6)))


class TestMockAgent(RuntimeContract):
    reported_usage = Usage(25, 15)

    def echo_runtime(self) -> Runtime:
        class MockEcho(MockAgent):
            async def run(self, messages: Messages) -> dict[str, Any]:
                return await MockAgent(response=messages[-1]["content"]).run(messages)

            async def run_streamed(self, messages: Messages) -> AsyncIterator[dict[str, Any]]:
                async for chunk in MockAgent(response=messages[-1]["content"]).run_streamed(messages):
                    yield chunk

        return served(MockEcho())

    def slow_runtime(self) -> Runtime:
        return served(MockAgent(delay=0.6))


async def test_run_streamed_answers_a_caller_who_reads_along(collect: Collect) -> None:
    class Agent:
        async def run(self, messages: Messages) -> str:
            return "whole"

        async def run_streamed(self, messages: Messages) -> AsyncIterator[str]:
            yield "in "
            yield "pieces"

    assert await collect(served(Agent())) == [TextDelta("whole")]
    assert await collect(served(Agent()), stream=True) == [TextDelta("in "), TextDelta("pieces")]


async def test_run_answers_where_run_streamed_returns_nothing(collect: Collect) -> None:
    class Agent(Echo):
        async def run_streamed(self, messages: Messages) -> None:
            pass

    class SyncAgent(Echo):
        def run_streamed(self, messages: Messages) -> None:
            pass

    for agent in (Agent(), SyncAgent()):
        assert await collect(served(agent), "hello", stream=True) == [TextDelta("hello")]


async def test_an_object_with_only_run_streamed_answers_everyone(collect: Collect) -> None:
    class Agent:
        async def run_streamed(self, messages: Messages) -> AsyncIterator[str]:
            yield "x"

    assert await collect(served(Agent())) == await collect(served(Agent()), stream=True) == [TextDelta("x")]


async def test_stream_events_are_read_and_the_response_is_kept(
    collect: Collect, make_context: Callable[..., RunContext]
) -> None:
    class Streaming:
        async def stream_events(self) -> AsyncIterator[Any]:
            data = SimpleNamespace(type="response.output_text.delta", delta="hi")
            yield SimpleNamespace(type="raw_response_event", data=data)
            yield SimpleNamespace(type="agent_updated_stream_event", new_agent=None)

    streaming, context = Streaming(), make_context()
    agent = SimpleNamespace(run=lambda messages: "", run_streamed=lambda messages: streaming)
    assert await collect(served(agent), stream=True, context=context) == [TextDelta("hi")]
    assert context.original_response is streaming


async def test_what_works_behind_stream_events_is_cancelled_with_the_run(
    collect: Collect, make_context: Callable[..., RunContext]
) -> None:
    class Streaming:
        is_cancelled = False

        async def stream_events(self) -> AsyncIterator[str]:
            yield "x"
            await asyncio.Event().wait()

        def cancel(self) -> None:
            self.is_cancelled = True

    streaming = Streaming()
    agent = SimpleNamespace(run=lambda messages: streaming)
    run = asyncio.ensure_future(collect(served(agent)))
    await asyncio.wait([run], timeout=0.2)
    run.cancel()
    await asyncio.wait([run])
    assert (run.cancelled(), streaming.is_cancelled) == (True, True)


async def test_the_mock_agent_streams_as_openai_does(collect: Collect) -> None:
    agent = MockAgent(response="Hello there you")
    events = await collect(served(agent), stream=True)
    assert events == [
        TextDelta("Hello"),
        TextDelta(" there"),
        TextDelta(" you"),
        FinishNoted("stop"),
        UsageReported(Usage(25, 15, "mock-agent")),
    ]
    chunks = [chunk async for chunk in agent.run_streamed([])]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert [chunk["object"] for chunk in chunks] == ["chat.completion.chunk"] * 5
    assert agent.calls == [[{"role": "user", "content": "hi"}], []]


async def test_the_mock_agent_fails_after_what_it_has_said(collect: Collect) -> None:
    said: list[str] = []
    agent = MockAgent(chunks=["so ", "far"], error=KeyError("no"), usage=None)
    with pytest.raises(KeyError):
        async for chunk in agent.run_streamed([]):
            said.append(chunk["choices"][0]["delta"].get("content"))
    assert said == ["", "so ", "far"]
    with pytest.raises(KeyError):
        await collect(served(agent))


def test_what_the_object_says_of_itself_is_described() -> None:
    def search() -> None: ...

    price = Pricing(credits_per_request=Decimal(3))
    agent = SimpleNamespace(
        run=lambda messages: "",
        model="gpt-4o-mini",
        description="Finds things.",
        tools=[search, "open", SimpleNamespace(name="close"), {"type": "function", "function": {"name": "save"}}, 7],
        __innkeeper_pricing__=price,
    )
    described = served(agent).describe()
    assert (described.name, described.model, described.description) == ("agent", "gpt-4o-mini", "Finds things.")
    assert (described.tools, described.pricing) == (("search", "open", "close", "save"), price)


def test_an_object_that_cannot_run_is_refused() -> None:
    with pytest.raises(SetupError, match="neither run nor run_streamed"):
        served(SimpleNamespace())
    with pytest.raises(SetupError, match=r"Needy\.run requires the parameter 'database'"):
        served(Needy())


class Needy:
    def run(self, messages: Messages, database: object) -> str:
        return ""
