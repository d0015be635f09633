"""Pydantic AI agents as runtimes: what is told of a run, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, Tool
from pydantic_ai import RunContext as AgentContext
from pydantic_ai.messages import ModelMessage, ModelResponse, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import DeferredToolRequests, ToolDefinition
from pydantic_ai.toolsets import ExternalToolset

from innkeeper.core.context import RunContext, get_context
from innkeeper.core.events import (
    AgentEvent,
    ReasoningDelta,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.core.messages import Message
from innkeeper.core.runs import Turn
from innkeeper.core.usage import Usage
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.scripted import scripted_model
from innkeeper.testing import RuntimeContract
from tests.support.plays import cancelled_after, only, text_of
from tests.support.pydantic_agents import add, agent_of, calling, scripted, served

Collect = Callable[..., Awaitable[list[AgentEvent]]]
MakeContext = Callable[..., RunContext]


async def test_a_run_is_told_step_by_step(collect: Collect) -> None:
    events = await collect(served(scripted(tools=[add])), 'call add {"a": 1, "b": 2}')
    timeless = [
        ToolReturned(event.tool_name, event.tool_call_id, event.result) if isinstance(event, ToolReturned) else event
        for event in events
        if not isinstance(event, UsageReported)
    ]
    assert timeless == [
        StepChanged(1, "started"),
        ToolCalled("add", "call_1_0", '{"a": 1, "b": 2}'),
        ToolReturned("add", "call_1_0", 3),
        StepChanged(1, "completed"),
        StepChanged(2, "started"),
        TextDelta("add"),
        TextDelta(" returned"),
        TextDelta(" 3."),
        StepChanged(2, "completed"),
    ]
    assert len(only(UsageReported, events)) == 2


async def test_parallel_calls_are_all_told_before_the_first_result(collect: Collect) -> None:
    calls = 'call add {"a": 1, "b": 2}\ncall add {"a": 3, "b": 4}'
    events = await collect(served(scripted(tools=[add])), calls)
    tools = [event for event in events if isinstance(event, ToolCalled | ToolReturned)]
    assert [type(event) for event in tools] == [ToolCalled, ToolCalled, ToolReturned, ToolReturned]
    assert sorted(event.result for event in only(ToolReturned, events)) == [3, 7]


async def test_reasoning_is_told_apart_from_text(collect: Collect) -> None:
    async def think(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        yield {0: DeltaThinkingPart(content="Hm.")}
        yield {0: DeltaThinkingPart(content=" Well.")}
        yield "Yes."

    events = await collect(served(Agent(FunctionModel(stream_function=think))), "so?")
    assert "".join(event.content for event in only(ReasoningDelta, events)) == "Hm. Well."
    assert text_of(events) == "Yes."


class City(BaseModel):
    name: str
    people: int


async def test_a_structured_output_is_yielded_as_json(collect: Collect) -> None:
    events = await collect(served(scripted(output_type=City)), "hi")
    assert City.model_validate_json(text_of(events)) == City(name="a", people=0)


async def test_a_validated_text_is_yielded_once_it_is_valid(collect: Collect) -> None:
    agent = scripted()
    seen: list[str] = []

    @agent.output_validator
    def refuse_the_first(text: str) -> str:
        seen.append(text)
        if len(seen) == 1:
            raise ModelRetry("again")
        return "valid"

    assert text_of(await collect(served(agent), "hi")) == "valid"
    assert not served(agent).describe().accepts_client_tools


async def test_a_tool_that_asks_for_a_retry_is_told_as_an_error(collect: Collect) -> None:
    def picky() -> str:
        raise ModelRetry("say please")

    events = await collect(served(scripted(tools=[picky])), "call picky {}")
    (returned,) = only(ToolReturned, events)
    assert "say please" in returned.error
    assert text_of(events)


async def test_a_tool_that_raises_fails_the_run_and_keeps_its_secret(
    collect: Collect, make_context: MakeContext
) -> None:
    def leak() -> str:
        raise RuntimeError("password=hunter2")

    runtime, events = served(scripted(tools=[leak])), []
    with pytest.raises(RuntimeError):
        async for event in runtime.run(Turn((Message("user", "call leak {}"),)), make_context()):
            events.append(event)
    assert events[-1] == ToolReturned("leak", "call_1_0", error="The tool raised RuntimeError.")


async def test_tools_find_the_runs_context_in_threads_and_tasks(collect: Collect, make_context: MakeContext) -> None:
    found: list[tuple[Any, bool]] = []

    def sync_tool() -> str:
        found.append((get_context(), threading.current_thread() is threading.main_thread()))
        return "ok"

    async def async_tool() -> str:
        found.append((get_context(), threading.current_thread() is threading.main_thread()))
        return "ok"

    context = make_context()
    agent = scripted(tools=[sync_tool, async_tool])
    await collect(served(agent), "call sync_tool {}\ncall async_tool {}", context=context)
    assert sorted(found, key=lambda one: one[1]) == [(context, False), (context, True)]
    assert get_context() is None


async def test_max_threads_bounds_the_synchronous_tools_at_work(collect: Collect) -> None:
    at_work, most = 0, 0

    def work() -> str:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        threading.Event().wait(0.02)
        at_work -= 1
        return "ok"

    await collect(served(scripted(tools=[work]), max_threads=2), "\n".join(["call work {}"] * 6))
    assert most == 2


async def test_an_agent_may_have_the_context_as_its_deps(collect: Collect, make_context: MakeContext) -> None:
    agent = Agent(scripted_model(), deps_type=RunContext)

    @agent.tool
    def whose(context: AgentContext[RunContext]) -> str | None:
        return context.deps.user_id

    context = make_context()
    context.user_id = "ada"
    assert text_of(await collect(served(agent), "call whose {}", context=context)) == "whose returned ada."


async def test_usage_is_the_frameworks_and_named_after_the_model(collect: Collect) -> None:
    events = await collect(served(scripted()), "hello")
    assert only(UsageReported, events) == [UsageReported(Usage(50, 4, "test"))]


async def test_cancelling_in_a_model_call_closes_the_models_stream(make_context: MakeContext) -> None:
    closed = asyncio.Event()

    async def endless(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    await cancelled_after(TextDelta, served(Agent(FunctionModel(stream_function=endless))), make_context())
    await asyncio.wait_for(closed.wait(), 30)


@pytest.mark.parametrize("is_async", [True, False])
async def test_cancelling_in_a_tool_does_not_wait_for_it(make_context: MakeContext, is_async: bool) -> None:
    release = threading.Event()
    cancelled = asyncio.Event()

    async def wait_in_task() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return ""

    def wait_in_thread() -> str:
        release.wait(30)
        return ""

    tool = wait_in_task if is_async else wait_in_thread
    runtime = served(scripted(tools=[tool]))
    try:
        await asyncio.wait_for(cancelled_after(ToolCalled, runtime, make_context(), f"call {tool.__name__} {{}}"), 25)
    finally:
        release.set()
    assert cancelled.is_set() is is_async


async def test_a_reader_that_leaves_ends_the_run(make_context: MakeContext) -> None:
    runtime = served(scripted())
    events = runtime.run(Turn((Message("user", "a b c d"),)), make_context())
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]  # it is a generator
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


async def test_a_description_names_model_and_tools(collect: Collect) -> None:
    described = served(Agent("openai:gpt-4o", tools=[add], instructions="secret", defer_model_check=True)).describe()
    assert (described.model, described.provider, described.tools) == ("openai:gpt-4o", "openai", ("add",))
    assert described.has_model and described.accepts_client_tools
    assert "secret" not in repr(described)


class TestPydanticAI(RuntimeContract):
    secrets = ("the cellar key",)
    reported_usage = Usage(50, 1)

    def echo_runtime(self) -> Runtime:
        return served(agent_of(_echo, instructions="the cellar key"))

    def failing_runtime(self) -> Runtime:
        return served(agent_of(_fail))

    def slow_runtime(self) -> Runtime:
        def slow() -> str:
            threading.Event().wait(0.6)
            return ""

        return served(agent_of(calling("slow"), tools=[slow]))

    def tool_runtime(self) -> Runtime:
        return served(agent_of(calling("add", a=1, b=2), tools=[add]))

    def steered_runtime(self) -> Runtime:
        return served(agent_of(_call_then_echo, tools=[add]))

    def approval_runtime(self) -> Runtime:
        return served(agent_of(_repeat_then_echo, tools=[Tool(_repeat, requires_approval=True)]))

    def client_tool_runtime(self) -> Runtime:
        outside = ExternalToolset([ToolDefinition(name="weather")])
        agent = agent_of(calling("weather"), toolsets=[outside], output_type=[str, DeferredToolRequests])
        return served(agent)


async def _echo(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    yield messages[-1].parts[-1].content  # type: ignore[union-attr,misc]  # the user's text


async def _fail(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    yield "well"
    raise RuntimeError("no")


def _repeat(text: str) -> str:
    return text


async def _repeat_then_echo(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    async for piece in _call_then_echo(messages, info, ("_repeat", '{"text": "one"}')):
        yield piece


async def _call_then_echo(
    messages: list[ModelMessage], info: AgentInfo, call: tuple[str, str] = ("add", '{"a": 1, "b": 2}')
) -> AsyncIterator[Any]:
    if not any(isinstance(message, ModelResponse) for message in messages):
        yield {0: DeltaToolCall(*call, tool_call_id="c1")}
        return
    prompts = [part.content for one in messages for part in one.parts if isinstance(part, UserPromptPart)]
    yield str(prompts[-1])


async def test_what_an_agent_consumes_that_a_tool_asks_on_the_runs_account_is_reported(collect: Collect) -> None:
    inner = Agent(TestModel())
    alone: list[Any] = []

    async def ask(context: AgentContext[Any], question: str) -> str:
        answer = await inner.run(question, usage=context.usage)
        alone.append(answer.response.usage)
        return answer.output

    outer = served(agent_of(calling("ask", question="How far is it?"), tools=[ask]))
    told = [one.usage for one in only(UsageReported, await collect(outer, "go"))]
    (nested,) = alone
    assert len(told) == 3, "two calls of its own model, and what was between them"
    assert told[1] == Usage(nested.input_tokens, nested.output_tokens) and told[1].output_tokens
