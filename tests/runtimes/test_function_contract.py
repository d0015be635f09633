"""The contract of runtimes, over every kind of function."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from innkeeper.core.actions import Action
from innkeeper.core.context import RunContext
from innkeeper.core.events import AgentEvent, Paused, ToolCalled, ToolReturned
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.functions import FunctionRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.testing import RuntimeContract

Messages = list[dict[str, Any]]

CALL: dict[str, Any] = {
    "type": "tool_call",
    "tool_name": "add",
    "tool_call_id": "c1",
    "arguments": {"a": 1},
}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_call_id": "c1", "result": 3}
ASKED = Action("c1", "approval", "repeat", '{"text": "one"}')


def served(function: Callable[..., Any]) -> FunctionRuntime:
    return FunctionRuntime(function, "agent", RuntimeSettings())


class FunctionContract(RuntimeContract):
    def failing_runtime(self) -> Runtime:
        def agent(messages: Messages) -> str:
            raise ValueError("no")

        return served(agent)


class TestAsyncFunction(FunctionContract):
    def echo_runtime(self) -> Runtime:
        async def agent(messages: Messages) -> str:
            return str(messages[-1]["content"])

        return served(agent)

    def slow_runtime(self) -> Runtime:
        async def agent(messages: Messages) -> str:
            await asyncio.sleep(0.6)
            return "done"

        return served(agent)


class TestFunction(FunctionContract):
    def echo_runtime(self) -> Runtime:
        return served(lambda messages: messages[-1]["content"])

    def slow_runtime(self) -> Runtime:
        return served(lambda messages: time.sleep(0.6))


class TestAsyncGenerator(FunctionContract):
    def echo_runtime(self) -> Runtime:
        async def agent(messages: Messages) -> AsyncIterator[str]:
            for letter in messages[-1]["content"]:
                yield letter

        return served(agent)

    def failing_runtime(self) -> Runtime:
        async def agent(messages: Messages) -> AsyncIterator[str]:
            yield "so far"
            raise ValueError("no")

        return served(agent)

    def slow_runtime(self) -> Runtime:
        async def agent(messages: Messages) -> AsyncIterator[str]:
            await asyncio.sleep(0.6)
            yield "done"

        return served(agent)

    def tool_runtime(self) -> Runtime:
        async def agent(messages: Messages) -> AsyncIterator[dict[str, Any]]:
            yield CALL
            yield RESULT

        return served(agent)

    def client_tool_runtime(self) -> Runtime:
        async def agent(messages: Messages) -> AsyncIterator[dict[str, Any]]:
            yield {**CALL, "client_side": True}

        return served(agent)

    def steered_runtime(self) -> Runtime:
        async def agent(messages: Messages, context: RunContext) -> AsyncIterator[dict[str, Any] | str]:
            said = [str(messages[-1]["content"])]
            said += [message.content async for message in context.injections()]
            yield CALL
            yield RESULT
            said += [message.content async for message in context.injections()]
            yield said[-1]

        return served(agent)

    def approval_runtime(self) -> Runtime:
        async def agent(messages: Messages, context: RunContext) -> AsyncIterator[AgentEvent | str]:
            if context.continuation is None:
                yield ToolCalled("repeat", "c1", ASKED.arguments)
                yield Paused((ASKED,), "v1")
                return
            if context.continuation.state != "v1":
                raise ValueError("not put aside by this agent")
            said = [str(messages[-1]["content"])]
            said += [message.content async for message in context.injections()]
            (answer,) = context.continuation.answers
            if answer.decision == "deny":
                yield ToolReturned("repeat", "c1", error=answer.message)
            else:
                yield ToolReturned("repeat", "c1", json.loads(answer.arguments or ASKED.arguments)["text"])
            yield said[-1]

        return served(agent)


class TestGenerator(FunctionContract):
    def echo_runtime(self) -> Runtime:
        def agent(messages: Messages) -> Iterator[str]:
            yield from messages[-1]["content"]

        return served(agent)

    def failing_runtime(self) -> Runtime:
        def agent(messages: Messages) -> Iterator[str]:
            yield "so far"
            raise ValueError("no")

        return served(agent)

    def slow_runtime(self) -> Runtime:
        def agent(messages: Messages) -> Iterator[str]:
            time.sleep(0.6)
            yield "done"

        return served(agent)

    def tool_runtime(self) -> Runtime:
        def agent(messages: Messages) -> Iterator[dict[str, Any]]:
            yield CALL
            yield RESULT

        return served(agent)

    def steered_runtime(self) -> Runtime:
        def agent(messages: Messages, context: RunContext) -> Iterator[dict[str, Any] | str]:
            said = [str(messages[-1]["content"])]
            said += [message.content for message in context.injections()]
            yield CALL
            yield RESULT
            said += [message.content for message in context.injections()]
            yield said[-1]

        return served(agent)
