"""Isolated agents: a runtime on an event loop of its own, in a thread, so that code which blocks holds up nobody else.

An agent has one such loop, started at its first run. Where a loop has not begun a run within a second, it is blocked:
it is left to the runs that it has, and a new one takes its place.
Invariant: nothing here waits for the agent's loop except as a task that can be cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from innkeeper.core.agents import AgentDescription, Prompts
from innkeeper.core.context import RunContext, RunLine
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import AgentEvent
from innkeeper.core.injections import InjectedMessage
from innkeeper.core.runs import Turn
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.channels import Channel
from innkeeper.runtimes.relays import inside
from innkeeper.runtimes.session_tools import called_here
from innkeeper.services.watchdogs import place_in, stack_of

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds that a loop has to begin a run
_MOST_BLOCKED = 64  # loops that one agent may have blocked before its runs wait


class IsolatedRuntime:
    """Runs `runtime` elsewhere; what it yields, raises and describes is the same."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._runtime = runtime
        self._name = name
        self._home: _Home | None = None
        self._blocked: list[_Home] = []

    def describe(self) -> AgentDescription:
        return self._runtime.describe()

    @property
    def kind(self) -> str | None:
        return getattr(self._runtime, "kind", None)

    @property
    def inner(self) -> Runtime:
        """What it runs elsewhere."""
        return self._runtime

    def prompts(self) -> Prompts | None:
        told = getattr(self._runtime, "prompts", None)
        return told() if callable(told) else None

    async def run(self, turn: Turn, context: RunContext) -> AsyncGenerator[AgentEvent | str, None]:
        channel: Channel[AgentEvent | str] = Channel()
        if context.line is not None:
            # For good: an agent that has been given up may still ask.
            context.line = _BridgedLine(context.line, channel)
        context.session_tools = called_here(context.session_tools)
        visit = _Visit(lambda: self._runtime.run(turn, context), channel, inside(context))
        self._admit(visit)
        try:
            while batch := await channel.take():
                for event in batch:
                    yield event
        finally:
            visit.leave()
            await channel.ended()

    def _admit(self, visit: _Visit) -> None:
        home = self._home
        if home is None or not home.is_alive:
            home = self._home = _Home(self._name)
            weakref.finalize(self, home.retire).atexit = False
        home.admit(visit)
        visit.patience = asyncio.get_running_loop().call_later(_PATIENCE, self._readmit, visit, home)

    def _readmit(self, visit: _Visit, home: _Home) -> None:
        """If the loop has not begun the run, try another one."""
        if visit.has_begun:
            return
        if home is self._home and not self._give_up(home):
            visit.patience = asyncio.get_running_loop().call_later(_PATIENCE, self._readmit, visit, home)
            return
        try:
            self._admit(visit)
        except RuntimeError as error:  # the system has no more threads
            visit.fail(error)

    def _give_up(self, home: _Home) -> bool:
        self._blocked = [one for one in self._blocked if one.is_alive]
        if len(self._blocked) >= _MOST_BLOCKED:
            return False
        _logger.warning(
            "The agent %r has blocked its event loop for more than %.0f s by %s. Its next runs get a new one.",
            self._name,
            _PATIENCE,
            home.place,
        )
        self._blocked.append(home)
        self._home = None
        home.retire()
        return True


class _Visit:
    """One run; it begins on the first loop that gets to it, and only there."""

    def __init__(
        self,
        run: Callable[[], AsyncIterator[AgentEvent | str]],
        channel: Channel[AgentEvent | str],
        variables: contextvars.Context,
    ) -> None:
        self.patience: asyncio.TimerHandle | None = None
        self._run = run
        self._channel = channel
        self._variables = variables
        self._deciding = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_left = False
        self._task: asyncio.Task[None] | None = None

    @property
    def has_begun(self) -> bool:
        return self._loop is not None

    def begin(self) -> asyncio.Task[None] | None:
        """On the agent's loop. `None` if the run has begun elsewhere, or nobody wants it any more."""
        loop = asyncio.get_running_loop()
        with self._deciding:
            if self._loop is not None or self._has_left:
                return None
            self._loop = loop
        self._task = loop.create_task(self._perform(), context=self._variables)
        self._task.add_done_callback(self._finished)
        return self._task

    async def _perform(self) -> None:
        try:
            async with contextlib.aclosing(self._run()) as events:  # type: ignore[type-var]
                async for event in events:
                    if not await self._channel.send(event):
                        return
        except (SystemExit, KeyboardInterrupt) as error:
            raise AgentFailed("The agent tried to end the process.") from error

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._channel.end(AgentFailed("The agent cancelled itself.") if task.cancelled() else task.exception())

    def leave(self) -> None:
        """On the server's loop: the run has ended, or must."""
        if self.patience is not None:
            self.patience.cancel()
        with self._deciding:
            self._has_left = True
        if self._loop is None:
            self._channel.end()
        elif self._task is None or not self._task.done():
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def fail(self, error: Exception) -> None:
        """On the server's loop: there is no place where the run could begin."""
        self._channel.end(error)


class _Home:
    """An event loop in a daemon thread. It ends when it is retired and its last run has ended."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._runs: set[asyncio.Task[None]] = set()
        self._is_retired = False
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._keep, name=f"innkeeper-{name}-loop", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._loop.close()
            raise

    def admit(self, visit: _Visit) -> None:
        self._loop.call_soon_threadsafe(self._begin, visit)

    def retire(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._retire)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def place(self) -> str:
        """Where the loop's thread is now."""
        stack = stack_of(self._thread.ident or 0)
        return place_in(stack) if stack else "code that has ended"

    # on the loop

    def _begin(self, visit: _Visit) -> None:
        task = visit.begin()
        if task is not None:
            self._runs.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._runs.discard(task)
        self._changed.set()

    def _retire(self) -> None:
        self._is_retired = True
        self._changed.set()

    def _keep(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            while not self._is_over:
                try:
                    runner.run(self._stay())
                except (SystemExit, KeyboardInterrupt):  # of a task that the agent has left behind
                    _logger.error("An agent's background task tried to end the process.", exc_info=True)

    async def _stay(self) -> None:
        while not self._is_over:
            self._changed.clear()
            await self._changed.wait()

    @property
    def _is_over(self) -> bool:
        return self._is_retired and not self._runs


class _BridgedLine:
    """A run's line, which belongs to the server's loop, for whoever asks on the agent's loop.

    What the agent has told before reaches the run first.
    """

    def __init__(self, line: RunLine, channel: Channel[AgentEvent | str]) -> None:
        self._line = line
        self._channel = channel
        self._loop = asyncio.get_running_loop()

    async def receive(self) -> Sequence[InjectedMessage]:
        return await self._asked(self._line.receive)

    def tracked(self) -> None:
        self._line.tracked()

    async def saved(self) -> None:
        await self._asked(self._line.saved)

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        if asyncio.get_running_loop() is self._loop:
            return await ask()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._ask(ask), self._loop))

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        await self._channel.caught_up()
        return await ask()
