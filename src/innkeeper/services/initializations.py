"""Initializations: agents made anew while the server goes on, in every process that serves the same store.

What is new is made first, in a thread of its own, as a user's file may never end; if that fails, what served before
still does. Runs under way keep what they began with. Other processes are told over the bus, and say in their log how it
went; one whose connection to the bus is lost at that moment misses it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from innkeeper.core.errors import AgentNotInitialized, InnkeeperError
from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant
from innkeeper.ports.agents import Runtime
from innkeeper.services.agents import AgentRegistry, ServedAgent
from innkeeper.services.audit import Audit
from innkeeper.services.wakes import Wakes

_logger = logging.getLogger(__name__)

_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Age:
    """Since when an agent is as it is, in this process, and how often it was made anew before."""

    since: Instant
    times: int = 0


class Initializations:
    """Makes agents anew. What they used before is closed `linger` seconds later, when no run can need it any more.

    One that is not made within `patience` seconds is given up; until its thread has ended, nothing else is made.
    """

    def __init__(
        self,
        *,
        agents: AgentRegistry,
        audit: Audit,
        wakes: Wakes,
        now: Callable[[], int],
        linger: float,
        patience: float = _PATIENCE,
    ) -> None:
        self._agents = agents
        self._audit = audit
        self._wakes = wakes
        self._now = now
        self._linger = linger
        self._patience = patience
        self._making: threading.Thread | None = None
        self._began = Instant(now())
        self._ages: dict[str, Age] = {}
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        wakes.on_agent(self._follow)

    def age(self, name: str) -> Age:
        return self._ages.get(name, Age(self._began))

    async def initialize(self, actor: Owner, name: str | None) -> ServedAgent:
        """Make an agent anew, the default one if none is named, here and in the other processes.

        Raises: what `AgentRegistry.find` raises; AgentNotInitialized; StorageUnavailable.
        """
        found = await self._agents.find(name)
        async with self._one_at_a_time:
            runtime = await self._made(found.name)
            await self._audit.write(self._audit.entry(actor, "agent.initialize", "agent", found.name))
            self._put(found.name, runtime)
        self._wakes.agent_changed(found.name)
        return await self._agents.find(found.name)

    def _follow(self, name: str) -> None:
        """Another process has made this agent anew."""
        if name in self._agents:
            self._keep(self._again(name))

    async def _again(self, name: str) -> None:
        try:
            async with self._one_at_a_time:
                self._put(name, await self._made(name))
        except InnkeeperError as error:
            _logger.error("The agent %r was initialised in another process, and could not be here: %s", name, error)
        else:
            _logger.info("The agent %r was initialised, as in another process.", name)

    async def _made(self, name: str) -> Runtime:
        maker = self._agents.maker_of(name)
        if maker is None:
            raise AgentNotInitialized(f"The agent {name!r} was not registered by its name, so it cannot be made anew.")
        if self._making is not None and self._making.is_alive():
            reason = "what was to be made before it has not ended yet. Where that never ends, restart the server."
        else:
            try:
                async with asyncio.timeout(self._patience):
                    runtime, reason = await self._attempted(maker)
            except TimeoutError:
                runtime, reason = None, f"it was not made within {self._patience:.0f} s."
            if runtime is not None:
                return runtime
        raise AgentNotInitialized(f"The agent {name!r} serves as before, because {reason}")

    async def _attempted(self, maker: Callable[[], Runtime]) -> _Made:
        """What comes of `maker` in a thread of its own: one of the loop's would be lost to all if it never ended."""
        made: Future[_Made] = Future()
        made.set_running_or_notify_cancel()  # whoever gives up waiting leaves it as it is
        variables = copy_context()

        def make() -> None:
            made.set_result(variables.run(_made, maker))

        self._making = threading.Thread(target=make, name="innkeeper-making", daemon=True)
        self._making.start()
        return await asyncio.wrap_future(made)

    def _put(self, name: str, runtime: Runtime) -> None:
        before = self._agents.replace(name, runtime)
        self._ages[name] = Age(Instant(self._now()), self.age(name).times + 1)
        if before is not runtime:
            self._keep(self._close_later(before))

    async def _close_later(self, runtime: Any) -> None:
        await asyncio.sleep(self._linger)
        await _close(runtime)

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Leave what has not been closed to the end of the event loop."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


_Made = tuple[Runtime | None, str]
"""What was made, or why it was not."""


def _made(maker: Callable[[], Runtime]) -> _Made:
    try:
        return maker(), ""
    except InnkeeperError as error:
        return None, error.message
    except BaseException as error:  # noqa: BLE001 - a user's file may raise anything, and it shall not end the server
        return None, f"its code raised {error!r}."


async def _close(runtime: Any) -> None:
    close = getattr(runtime, "close", None)
    if callable(close):
        try:
            closing = close()
            if inspect.isawaitable(closing):
                await closing
        except Exception:
            _logger.exception("an agent that was replaced could not be closed")
