"""Calls: one user function of any kind (plain, async, generator, async generator), played as events.

What a function is and what it takes is settled at construction; a run only calls it. Results that are not
plain text are read by `results`. Invariant: text passes through as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any

from innkeeper.core.context import RunContext, get_context, set_context, set_wait
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import AgentEvent
from innkeeper.core.runs import Turn
from innkeeper.runtimes.results import Reader, is_stream, settled
from innkeeper.runtimes.signatures import Arguments
from innkeeper.runtimes.threads import Threads, waiting

Play = Callable[[Turn, RunContext], AsyncGenerator[AgentEvent | str, None]]


class Call:
    """`play(turn, context)` calls the function; where it returns `None`, `otherwise` is played instead."""

    def __init__(
        self, function: Callable[..., Any], label: str, threads: Threads, otherwise: Play | None = None
    ) -> None:
        self._function = function
        self._arguments = Arguments(function, label)
        self._threads = threads
        self._otherwise = otherwise
        self.play: Play = self._choose()

    def _choose(self) -> Play:
        code = _code_of(self._function)
        if inspect.isasyncgenfunction(code):
            return self._play_async_generator
        if inspect.iscoroutinefunction(code):
            return self._play_coroutine
        if inspect.isgeneratorfunction(code):
            return self._play_generator
        return self._play_function

    async def _play_coroutine(self, turn: Turn, context: RunContext) -> AsyncGenerator[AgentEvent | str, None]:
        arguments, named = self._arguments.of(turn, context)
        with _Entered(context):
            result = await self._function(*arguments, **named)
            if type(result) is str:
                if result:
                    yield result
                return
            async with aclosing(self._result(result, turn, context)) as events:
                async for event in events:
                    yield event

    async def _play_async_generator(self, turn: Turn, context: RunContext) -> AsyncGenerator[AgentEvent | str, None]:
        arguments, named = self._arguments.of(turn, context)
        with _Entered(context):
            reader: Reader | None = None
            async with aclosing(self._function(*arguments, **named)) as items:
                async for item in items:
                    if type(item) is str:
                        if item:
                            yield item
                        continue
                    reader = reader or Reader(context, self._threads)
                    if not is_stream(item):
                        for event in reader.read(item):
                            yield event
                        continue
                    async with aclosing(reader.events(item)) as events:
                        async for event in events:
                            yield event
            if reader is not None:
                for event in reader.flush():
                    yield event

    async def _play_generator(self, turn: Turn, context: RunContext) -> AsyncGenerator[AgentEvent | str, None]:
        arguments, named = self._arguments.of(turn, context)
        with _Entered(context):
            async with aclosing(self._result(self._function(*arguments, **named), turn, context)) as events:
                async for event in events:
                    yield event

    async def _play_function(self, turn: Turn, context: RunContext) -> AsyncGenerator[AgentEvent | str, None]:
        arguments, named = self._arguments.of(turn, context)
        with _Entered(context):
            result = await self._threads.call(partial(self._function, *arguments, **named))
            async with aclosing(self._result(result, turn, context)) as events:
                async for event in events:
                    yield event

    async def _result(self, result: object, turn: Turn, context: RunContext) -> AsyncGenerator[AgentEvent | str, None]:
        result = await settled(result)
        if result is None and self._otherwise is not None:
            events = self._otherwise(turn, context)
        else:
            events = Reader(context, self._threads).result(result)
        async with aclosing(events):
            async for event in events:
                yield event


def _code_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `inspect` must look at: a callable object is what its `__call__` is."""
    while isinstance(function, partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


class _Entered:
    """While it lasts, `get_context()` is this run's context, threads find back to its loop, and the agent cannot end
    the process.
    """

    __slots__ = ("_before", "_context")

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._before = get_context()
        if self._before is not self._context:
            set_context(self._context)
        set_wait(waiting())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A generator that the loop finalises leaves in another context than it entered: that one is not ours.
        if self._before is not self._context and get_context() is self._context:
            set_context(self._before)
        if kind is SystemExit:
            raise AgentFailed("The agent tried to end the process.") from error
