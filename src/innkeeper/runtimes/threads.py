"""Threads: where synchronous user code runs, so that the event loop never waits for it.

A call that is cancelled is abandoned: the caller goes on at once, the thread when the user's code lets it.
Each agent has threads of its own, so that one that hangs takes nobody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar
from weakref import WeakSet

from innkeeper.core.context import Ask, Wait, set_wait
from innkeeper.core.errors import AgentFailed
from innkeeper.core.injections import InjectedMessage
from innkeeper.runtimes.channels import Channel

T = TypeVar("T")

_LOOK_SECONDS = 1.0  # after which a thread that waits for a loop sees that this one has closed


class Threads:
    """At most `limit` threads, started as they are needed; context variables go along."""

    def __init__(self, limit: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(max(1, limit), thread_name_prefix=f"innkeeper-{name}")

    def lend(self) -> None:
        """Have the running task, and those that it starts, find these where they ask asyncio for its own threads."""
        loop = asyncio.get_running_loop()
        if loop not in _lenders:
            loop.set_default_executor(_Lent(getattr(loop, "_default_executor", None)))
            _lenders.add(loop)
        _own.set(self._pool)

    async def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, called in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, copy_context().run, _carried, function)

    async def batches(self, iterator: Iterator[T]) -> AsyncGenerator[list[T], None]:
        """What `iterator` yields, drawn in one thread; items that are ready together come together.

        The iterator is closed in its thread, also when the reader leaves early: then at its next item.
        """
        channel: Channel[T] = Channel()
        variables = copy_context()
        variables.run(set_wait, waiting(channel.caught_up))
        job = self._pool.submit(variables.run, _fill, channel, iterator)
        try:
            while batch := await channel.take():
                yield batch
        finally:
            channel.close()
            if job.cancel():
                _close(iterator)


_own: ContextVar[ThreadPoolExecutor | None] = ContextVar("_own", default=None)
_lenders: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


class _Lent(ThreadPoolExecutor):
    """An event loop's own threads, in whose place a run's tasks find those of their agent: frameworks that call what is
    synchronous ask nobody else, and the loop needs its few for names of hosts and for files.
    """

    def __init__(self, before: ThreadPoolExecutor | None) -> None:
        super().__init__(thread_name_prefix="asyncio")
        self._before = before

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        if (pool := _own.get() or self._before) is not None:
            return pool.submit(fn, *args, **kwargs)
        return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._before is not None:
            self._before.shutdown(wait, cancel_futures=cancel_futures)
        super().shutdown(wait, cancel_futures=cancel_futures)


def waiting(told: Callable[[], Awaitable[None]] | None = None) -> Wait:
    """How a thread asks the running loop and waits for its answer; `told` returns once the loop has what it said."""
    loop = asyncio.get_running_loop()

    async def asked(ask: Ask) -> Sequence[InjectedMessage]:
        if told is not None:
            await told()
        return await ask()

    def waited(ask: Ask) -> Sequence[InjectedMessage]:
        answer = asyncio.run_coroutine_threadsafe(asked(ask), loop)
        while not wait([answer], timeout=_LOOK_SECONDS).done:
            if loop.is_closed():  # it will not answer any more
                return ()
        return answer.result()

    return waited


def _carried(function: Callable[[], T]) -> T:
    """`function()`; a `StopIteration`, which asyncio's futures cannot carry, becomes an error that they can."""
    try:
        return function()
    except StopIteration as stop:
        raise AgentFailed("The agent raised StopIteration.") from stop


def _fill(channel: Channel[T], iterator: Iterator[T]) -> None:
    """In the thread: draw until the end, or until the reader has left."""
    failure: BaseException | None = None
    try:
        _draw(channel, iterator)
    except BaseException as raised:  # noqa: BLE001 (it is raised again where the reader is)
        failure = raised
    channel.end(failure)


def _draw(channel: Channel[T], iterator: Iterator[T]) -> None:
    try:
        for item in iterator:
            if not channel.put(item):
                break
    finally:
        _close(iterator)


def _close(iterator: object) -> None:
    close = getattr(iterator, "close", None)
    if callable(close):
        close()
