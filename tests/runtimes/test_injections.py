"""Functions and objects that take what is injected into their run, whatever kind they are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from innkeeper.core.context import RunContext, get_context
from innkeeper.core.events import MessageInjected, TextDelta
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.functions import FunctionRuntime
from innkeeper.runtimes.isolated import IsolatedRuntime
from innkeeper.runtimes.objects import ObjectRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.testing.lines import RecordedRun
from innkeeper.testing.runtimes import new_context
from tests.support.plays import text_of

Messages = list[dict[str, Any]]


def served(function: Callable[..., Any]) -> FunctionRuntime:
    return FunctionRuntime(function, "agent", RuntimeSettings())


@pytest.fixture
def run() -> RecordedRun:
    return RecordedRun(new_context())


def letters(count: int) -> list[TextDelta]:
    return [TextDelta(f"{number} ") for number in range(count)]


async def async_generator(messages: Messages, context: RunContext) -> AsyncIterator[str]:
    for number in range(200):
        yield f"{number} "
    async for message in context.injections():
        yield message.content


def generator(messages: Messages, context: RunContext) -> Iterator[str]:
    for number in range(200):
        yield f"{number} "
    for message in context.injections():
        yield message.content


class Streaming:
    """An object that answers with a generator."""

    def run(self, messages: Messages, context: RunContext) -> Iterator[str]:
        return generator(messages, context)


@pytest.mark.parametrize("is_isolated", [False, True])
@pytest.mark.parametrize(
    "runtime",
    [served(async_generator), served(generator), ObjectRuntime(Streaming(), "agent", RuntimeSettings())],
    ids=["async generator", "generator", "object"],
)
async def test_what_was_yielded_before_is_in_the_log_before_the_messages(
    run: RecordedRun, runtime: Runtime, is_isolated: bool
) -> None:
    run.inject("one", "two")
    log = await run.play(IsolatedRuntime(runtime, "agent") if is_isolated else runtime, "go")
    injected = [MessageInjected("one", "inj_1"), MessageInjected("two", "inj_2")]
    assert log == [*letters(200), *injected, TextDelta("one"), TextDelta("two")]


async def test_a_sync_function_takes_messages_in_its_thread(run: RecordedRun) -> None:
    def agent(messages: Messages, context: RunContext) -> str:
        return " ".join(message.content for message in context.injections())

    run.inject("one", "two")
    assert text_of(await run.play(served(agent), "go")) == "one two"


async def test_an_async_function_takes_messages(run: RecordedRun) -> None:
    async def agent(messages: Messages, context: RunContext) -> str:
        return " ".join([message.content async for message in context.injections()])

    run.inject("one", "two")
    assert text_of(await run.play(served(agent), "go")) == "one two"


async def test_each_message_is_given_once(run: RecordedRun) -> None:
    def agent(messages: Messages, context: RunContext) -> Iterator[str]:
        for turn in range(3):
            for message in context.injections():
                yield f"{turn}{message.content} "

    def seen(event: object) -> None:
        if event == TextDelta("0one "):
            run.inject("two")

    run.inject("one")
    assert text_of(await run.play(served(agent), "go", seen=seen)) == "0one 1two "


async def test_nothing_waits_where_no_server_runs_the_agent() -> None:
    context = new_context()
    assert [message async for message in context.injections()] == []
    assert await asyncio.to_thread(lambda: list(context.injections())) == []


async def test_a_plain_loop_on_the_event_loop_says_what_to_write(run: RecordedRun) -> None:
    async def agent(messages: Messages, context: RunContext) -> str:
        return " ".join(message.content for message in context.injections())

    with pytest.raises(RuntimeError, match="async for"):
        await run.play(served(agent), "go")


async def test_a_thread_of_the_agents_own_takes_messages_with_the_variables_of_its_run(run: RecordedRun) -> None:
    def helped() -> str:
        context = get_context()
        assert context is not None
        return " ".join(message.content for message in context.injections())

    async def agent(messages: Messages, context: RunContext) -> str:
        return await asyncio.to_thread(helped)

    run.inject("one")
    assert text_of(await run.play(served(agent), "go")) == "one"


async def test_a_generator_whose_reader_has_left_is_not_kept_waiting(run: RecordedRun) -> None:
    ended = threading.Event()

    def agent(messages: Messages, context: RunContext) -> Iterator[str]:
        try:
            yield "one"
            while True:
                yield from (message.content for message in context.injections())
                yield "more"
        finally:
            ended.set()

    playing = asyncio.create_task(run.play(served(agent), "go"))
    while len(run.log) < 10:
        await asyncio.sleep(0)
    playing.cancel()
    await asyncio.wait({playing})
    assert await asyncio.to_thread(ended.wait, 10)
