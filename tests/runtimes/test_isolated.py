"""Agents on an event loop of their own: the same to whoever reads them, and in nobody's way when they block."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import pytest

from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext, get_context
from innkeeper.core.events import AgentEvent, TextDelta
from innkeeper.core.injections import InjectedMessage
from innkeeper.core.messages import Message
from innkeeper.core.runs import Turn
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.functions import FunctionRuntime
from innkeeper.runtimes.isolated import IsolatedRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.testing.runtimes import new_context, play, text_of
from tests.runtimes import test_function_contract as contracts
from tests.support.sizes import within

Messages = list[dict[str, Any]]
TURN = Turn((Message("user", "Hello"),))


def isolated(function: Callable[..., Any]) -> IsolatedRuntime:
    return IsolatedRuntime(FunctionRuntime(function, "mine", RuntimeSettings()), "mine")


class IsolatedContract(contracts.FunctionContract):
    """What holds for a function holds for it elsewhere."""

    def failing_runtime(self) -> Runtime:
        return IsolatedRuntime(super().failing_runtime(), "agent")

    def slow_runtime(self) -> Runtime:
        return IsolatedRuntime(super().slow_runtime(), "agent")


class TestAsyncGenerator(IsolatedContract, contracts.TestAsyncGenerator):
    def echo_runtime(self) -> Runtime:
        return IsolatedRuntime(super().echo_runtime(), "agent")

    def tool_runtime(self) -> Runtime:
        return IsolatedRuntime(super().tool_runtime(), "agent")

    def client_tool_runtime(self) -> Runtime:
        return IsolatedRuntime(super().client_tool_runtime(), "agent")


class TestAsyncFunction(IsolatedContract, contracts.TestAsyncFunction):
    def echo_runtime(self) -> Runtime:
        return IsolatedRuntime(super().echo_runtime(), "agent")


class TestGenerator(IsolatedContract, contracts.TestGenerator):
    def echo_runtime(self) -> Runtime:
        return IsolatedRuntime(super().echo_runtime(), "agent")

    def tool_runtime(self) -> Runtime:
        return IsolatedRuntime(super().tool_runtime(), "agent")


BLOCKED = within(0.6, 2.0)


async def longest_pause(run: asyncio.Future[Any]) -> float:
    """For how long the running loop was kept from its work until `run` had ended."""
    longest, last = 0.0, time.monotonic()
    while not run.done():
        await asyncio.wait([run], timeout=0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return longest


async def test_an_agent_that_blocks_its_loop_does_not_block_the_servers() -> None:
    async def blocks(messages: Messages) -> str:
        time.sleep(BLOCKED)
        return "done"

    run = asyncio.ensure_future(play(isolated(blocks), "Hello"))
    assert await longest_pause(run) < BLOCKED / 4
    assert text_of(run.result()) == "done"


async def test_all_runs_of_an_agent_share_one_loop_in_one_thread_that_is_not_the_servers() -> None:
    seen = []

    async def looks(messages: Messages) -> None:
        seen.append((asyncio.get_running_loop(), threading.get_ident()))
        await asyncio.sleep(0.01)

    runtime = isolated(looks)
    await asyncio.gather(*(play(runtime, "Hello") for _ in range(8)))
    await play(runtime, "Hello")
    assert len(seen) == 9
    assert len(set(seen)) == 1
    assert seen[0][0] is not asyncio.get_running_loop()
    assert seen[0][1] != threading.get_ident()


async def test_the_context_is_the_runs_own() -> None:
    found: list[RunContext | None] = []

    async def looks(messages: Messages, context: RunContext) -> str:
        found.extend([get_context(), context])
        context.set("who", "me")
        return "done"

    context = new_context()
    await play(isolated(looks), "Hello", context=context)
    assert found == [context, context]
    assert context.get("who") == "me"


class Bare:
    """A runtime that leaves the context as it finds it."""

    def describe(self) -> AgentDescription:
        return AgentDescription("bare")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent]:
        yield TextDelta(f"{get_context() is context} {who.get()}")


who: ContextVar[str] = ContextVar("who", default="nobody")


async def test_a_runtime_finds_the_context_and_the_variables_of_its_run() -> None:
    runtime = IsolatedRuntime(Bare(), "bare")
    who.set("me")
    assert text_of(await play(runtime, "Hello")) == "True me"
    assert runtime.describe() == AgentDescription("bare")


async def test_an_agent_that_is_far_ahead_of_its_reader_waits() -> None:
    said: list[int] = []

    async def chatters(messages: Messages) -> AsyncIterator[str]:
        for number in range(1000):
            said.append(number)
            yield f"{number} "

    async with aclosing(isolated(chatters).run(TURN, new_context())) as events:
        first = await anext(events)
        while len(said) < 65:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert len(said) < 150
        rest = [event async for event in events]
    assert [first, *rest] == [f"{number} " for number in range(1000)]


async def test_a_reader_that_leaves_cancels_the_agent_and_waits_for_what_it_still_does() -> None:
    steps: list[str] = []

    async def waits(messages: Messages) -> AsyncIterator[str]:
        yield "Hello"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            steps.append("cleaned up")
            raise

    async with aclosing(isolated(waits).run(TURN, new_context())) as events:
        assert await anext(events) == "Hello"
    assert steps == ["cleaned up"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, RecursionError])
async def test_an_agent_that_raises_something_unusual_fails_alone(error: type[BaseException]) -> None:
    async def odd(messages: Messages) -> str:
        if messages[-1]["content"] == "Hello":
            raise error
        return "fine"

    runtime = isolated(odd)
    with pytest.raises(Exception, match=r"agent|^$"):
        await play(runtime, "Hello")
    assert text_of(await play(runtime, "And now?")) == "fine"


async def test_a_task_that_an_agent_leaves_behind_cannot_end_its_loop(caplog: pytest.LogCaptureFixture) -> None:
    async def quits() -> None:
        raise SystemExit

    async def leaves(messages: Messages) -> str:
        task = asyncio.create_task(quits())
        await asyncio.wait([task], timeout=0.2)
        return "still here"

    runtime = isolated(leaves)
    assert text_of(await play(runtime, "Hello")) == "still here"
    assert text_of(await play(runtime, "Hello")) == "still here"
    assert "tried to end the process" in caplog.text


async def test_runs_that_wait_for_a_blocked_loop_get_a_new_one(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    async def blocks(messages: Messages) -> str:
        if messages[-1]["content"] == "block":
            release.wait(20)
        return str(messages[-1]["content"])

    runtime = isolated(blocks)
    blocked = asyncio.ensure_future(play(runtime, "block"))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    said = await asyncio.gather(*(play(runtime, f"number {number}") for number in range(3)))
    assert [text_of(events) for events in said] == ["number 0", "number 1", "number 2"]
    assert 0.9 < time.monotonic() - began < within(3, 15)
    began = time.monotonic()
    await play(runtime, "later")
    assert time.monotonic() - began < within(0.5, 0.9), "the new loop is known by now"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{__file__}:" in warning and "blocks" in warning
    assert not blocked.done()
    release.set()
    assert text_of(await blocked) == "block", "the run that blocked ends when its code lets it"


async def test_a_run_that_left_before_it_began_never_begins() -> None:
    release, heard = threading.Event(), []

    async def blocks(messages: Messages) -> None:
        heard.append(messages[-1]["content"])
        release.wait(20)

    runtime = isolated(blocks)
    blocked = asyncio.ensure_future(play(runtime, "first"))
    await asyncio.sleep(0.1)
    waiting = asyncio.ensure_future(play(runtime, "second"))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 10)
    release.set()
    await blocked
    await play(runtime, "third")
    assert heard == ["first", "third"]


class Line:
    """A run's line that tells what has been read when it is asked."""

    def __init__(self) -> None:
        self.read: list[AgentEvent | str] = []
        self.asked: list[tuple[str, int, asyncio.AbstractEventLoop]] = []

    def _note(self, what: str) -> None:
        self.asked.append((what, len(self.read), asyncio.get_running_loop()))

    async def receive(self) -> Sequence[InjectedMessage]:
        self._note("receive")
        return [InjectedMessage("Wait!", "inj_1")]

    async def saved(self) -> None:
        self._note("saved")

    def tracked(self) -> None:
        self._note("tracked")


async def test_a_run_is_asked_on_the_servers_loop_after_what_the_agent_had_told() -> None:
    async def asks(messages: Messages, context: RunContext) -> AsyncIterator[str]:
        yield "one "
        yield "two "
        await context.saved()
        async for message in context.injections():
            yield message.content

    line, context = Line(), new_context()
    context.line = line
    async for event in isolated(asks).run(TURN, context):
        await asyncio.sleep(0.02)
        line.read.append(event)
    loop = asyncio.get_running_loop()
    assert line.asked == [("saved", 2, loop), ("receive", 2, loop)]
    assert line.read == ["one ", "two ", "Wait!"]
    await context.saved()
    assert len(line.asked) == 3, "hooks ask on the server's loop, as always"


def threads_named(name: str) -> Iterator[threading.Thread]:
    return (thread for thread in threading.enumerate() if thread.name == name)


def test_the_thread_ends_with_the_agent() -> None:
    async def hello(messages: Messages) -> str:
        return "Hello"

    runtime = IsolatedRuntime(FunctionRuntime(hello, "brief", RuntimeSettings()), "brief")
    assert not list(threads_named("innkeeper-brief-loop")), "it is started at the first run"
    asyncio.run(play(runtime, "Hello"))
    (thread,) = threads_named("innkeeper-brief-loop")
    asyncio.run(play(runtime, "Hello"))
    del runtime
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
