"""Functions as agents: every kind, every signature, and a loop that never waits for them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from innkeeper.core.context import RunContext, get_context
from innkeeper.core.errors import AgentFailed, SetupError
from innkeeper.core.events import AgentEvent, TextDelta, ToolCalled, ToolReturned
from innkeeper.core.messages import Message
from innkeeper.core.runs import Turn
from innkeeper.core.usage import Pricing
from innkeeper.runtimes.functions import FunctionRuntime
from innkeeper.runtimes.settings import RuntimeSettings

Messages = list[dict[str, Any]]
Collect = Callable[..., Awaitable[list[AgentEvent]]]
MakeContext = Callable[..., RunContext]

CALL: dict[str, Any] = {
    "type": "tool_call",
    "tool_name": "add",
    "tool_call_id": "c1",
    "arguments": {"a": 1},
}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_call_id": "c1", "result": 3}


def served(function: Callable[..., Any], **settings: Any) -> FunctionRuntime:
    return FunctionRuntime(function, "agent", RuntimeSettings(**settings))


async def test_each_parameter_is_given_by_its_name(collect: Collect, make_context: MakeContext) -> None:
    seen: dict[str, Any] = {}

    async def agent(
        messages: Messages, stream: bool = False, context: Any = None, request: Any = None, agent_data: Any = None
    ) -> None:
        seen.update(messages=messages, stream=stream, context=context, request=request, agent_data=agent_data)

    context = make_context(request="the request", agent_data={"model": "m"})
    assert await collect(served(agent), "hi", context=context, stream=True) == []
    assert seen == {
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "context": context,
        "request": "the request",
        "agent_data": {"model": "m"},
    }


async def test_keyword_arguments_get_what_no_parameter_names(collect: Collect) -> None:
    async def agent(messages: Messages, **rest: Any) -> str:
        return " ".join(sorted(rest))

    assert await collect(served(agent)) == [TextDelta("agent_data context request stream")]


@pytest.mark.parametrize(
    "agent",
    [
        lambda history: history[0]["content"],
        lambda history, stream=False: history[0]["content"],
        lambda history, /: history[0]["content"],
        lambda history=None: history[0]["content"],
        lambda *all: all[0][0]["content"],
        lambda **all: all["messages"][0]["content"],
        lambda extra="h", /, messages=(): extra + messages[0]["content"][1:],
        partial(lambda style, messages: messages[0]["content"], "brief"),
        lambda: "hi",
    ],
)
async def test_messages_reach_a_parameter_of_another_name(agent: Callable[..., str], collect: Collect) -> None:
    assert await collect(served(agent), "hi") == [TextDelta("hi")]


@pytest.mark.parametrize("agent", [lambda messages, database: "", lambda a, b: "", lambda *, messages, key: ""])
def test_a_parameter_that_cannot_be_given_is_refused_by_name(agent: Callable[..., str]) -> None:
    with pytest.raises(SetupError, match=r"<lambda>' requires the parameter '(database|a|key)'") as refused:
        served(agent)
    assert refused.value.param in ("database", "a", "key")


async def test_content_parts_reach_the_function_as_a_list(collect: Collect) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}

    async def agent(messages: Messages) -> Any:
        return messages[0]["content"]

    assert await collect(served(agent), Message("user", (part,))) == [
        TextDelta('[{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]')
    ]


async def test_get_context_finds_the_run_in_every_kind_of_function(collect: Collect, make_context: MakeContext) -> None:
    def name() -> str:
        context = get_context()
        return str(context and context.get("name"))

    async def coroutine() -> str:
        return name()

    async def async_generator() -> AsyncIterator[str]:
        yield name()

    def generator() -> Iterator[str]:
        yield name()

    for function in (coroutine, async_generator, generator, name):
        context = make_context()
        context.set("name", "Ada")
        assert await collect(served(function), context=context) == [TextDelta("Ada")]
        assert get_context() is None


async def test_none_and_empty_text_yield_nothing(collect: Collect) -> None:
    async def agent() -> AsyncIterator[str | None]:
        for item in ("", None, "x", ""):
            yield item

    assert await collect(served(agent)) == [TextDelta("x")]
    assert await collect(served(lambda: "")) == []


async def test_a_function_may_return_any_kind_of_stream(collect: Collect) -> None:
    async def letters() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    async def returns_async_generator() -> AsyncIterator[str]:
        return letters()

    async def returns_generator() -> Iterator[str]:
        return iter(["a", "b"])

    async def text() -> str:
        return "ab"

    expected = [TextDelta("a"), TextDelta("b")]
    assert await collect(served(returns_async_generator)) == expected
    assert await collect(served(returns_generator)) == expected
    assert await collect(served(lambda: letters())) == expected
    assert await collect(served(lambda: text())) == [TextDelta("ab")]


async def test_a_callable_object_is_a_function(collect: Collect) -> None:
    class Agent:
        async def __call__(self, messages: Messages) -> AsyncIterator[str]:
            yield "called"

    assert await collect(served(Agent())) == [TextDelta("called")]


async def test_synchronous_code_runs_in_a_thread_of_its_own(collect: Collect) -> None:
    def generator() -> Iterator[str]:
        yield threading.current_thread().name

    for function in (generator, lambda: threading.current_thread().name):
        (event,) = await collect(served(function))
        assert isinstance(event, TextDelta)
        assert event.content.startswith("innkeeper-agent")


async def test_no_more_threads_work_at_once_than_the_settings_say(collect: Collect) -> None:
    at_work = threading.Semaphore(2)

    def agent() -> str:
        if not at_work.acquire(blocking=False):
            return "too many"
        time.sleep(0.01)
        at_work.release()
        return "fine"

    runtime = served(agent, max_threads=2)
    runs = await asyncio.gather(*(collect(runtime) for _ in range(8)))
    assert runs == [[TextDelta("fine")]] * 8


async def test_a_generator_waits_for_a_reader_that_is_behind(make_context: MakeContext) -> None:
    drawn = 0

    def agent() -> Iterator[str]:
        nonlocal drawn
        for _ in range(100_000):
            drawn += 1
            yield "x"

    events = served(agent).run(Turn(()), make_context())
    await anext(events)
    await asyncio.to_thread(_settle, lambda: drawn)
    assert drawn < 1000
    await events.aclose()


async def test_cancelling_a_synchronous_generator_returns_at_once_and_closes_it_later(
    make_context: MakeContext,
) -> None:
    began, goes_on, closed = threading.Event(), threading.Event(), threading.Event()

    def agent() -> Iterator[str]:
        try:
            began.set()
            goes_on.wait(5)
            yield "one"
            raise AssertionError("drawn on although the run was cancelled")
        finally:
            closed.set()

    run = asyncio.ensure_future(anext(served(agent).run(Turn(()), make_context())))
    assert await asyncio.to_thread(began.wait, 5)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not closed.is_set()
    goes_on.set()
    assert await asyncio.to_thread(closed.wait, 5)


async def test_an_iterator_is_closed_at_its_end(collect: Collect) -> None:
    class Connection:
        is_open = True

        def __iter__(self) -> Iterator[str]:
            return self

        def __next__(self) -> str:
            raise StopIteration

        def close(self) -> None:
            self.is_open = False

    connection = Connection()
    assert await collect(served(lambda: connection)) == []
    assert not connection.is_open


async def test_leaving_early_closes_the_function_s_own_generator(make_context: MakeContext) -> None:
    closed: list[str] = []

    async def inner() -> AsyncIterator[str]:
        try:
            yield "x"
            yield "y"
        finally:
            closed.append("inner")

    async def returning() -> AsyncIterator[str]:
        return inner()

    async def nesting() -> AsyncIterator[Any]:
        yield inner()

    for function in (inner, returning, nesting):
        events = served(function).run(Turn(()), make_context())
        assert await anext(events) in ("x", TextDelta("x"))
        await events.aclose()
    assert closed == ["inner"] * 3


@pytest.mark.parametrize("error", [SystemExit(1), StopIteration()])
async def test_an_agent_cannot_end_the_process_or_hang_its_run(error: BaseException, collect: Collect) -> None:
    def function() -> str:
        raise error

    def generator() -> Iterator[str]:
        yield "x"
        raise error

    async def coroutine() -> str:
        raise error

    async def async_generator() -> AsyncIterator[str]:
        yield "x"
        raise error

    for agent in (function, generator, coroutine, async_generator):
        with pytest.raises((AgentFailed, RuntimeError)):
            await asyncio.wait_for(collect(served(agent)), 30)


async def test_tool_calls_of_a_function_are_the_server_s_own(collect: Collect) -> None:
    async def agent() -> AsyncIterator[Any]:
        yield CALL
        yield RESULT
        yield "3"

    assert await collect(served(agent)) == [
        ToolCalled("add", "c1", '{"a": 1}'),
        ToolReturned("add", "c1", 3),
        TextDelta("3"),
    ]


def test_the_description_has_the_docstring_and_the_price() -> None:
    def agent(messages: Messages) -> str:
        """Adds
        numbers.

        Not told.
        """
        return ""

    agent.__innkeeper_pricing__ = price = Pricing(credits_per_request=Decimal(10))  # type: ignore[attr-defined]
    described = served(agent).describe()
    assert (described.name, described.description, described.pricing) == ("agent", "Adds numbers.", price)


def _settle(count: Callable[[], int]) -> None:
    """Return once the generator draws no more."""
    last = -1
    while (now := count()) != last:
        last = now
        time.sleep(0.05)
