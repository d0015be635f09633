"""Initializations: whatever a user's file does while its agent is made anew, the agent serves as before."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from innkeeper.buses.memory import MemoryBus
from innkeeper.core.errors import AgentNotInitialized
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.dummy import DummyRuntime
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.audit import Audit
from innkeeper.services.initializations import Initializations
from innkeeper.services.wakes import Wakes
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import ANN, new_id, now

PATIENCE = 0.05


@dataclass
class Workshop:
    """An agent `mine`, made anew as `make` says, over a store."""

    store: SqliteStore
    agents: AgentRegistry
    bus: MemoryBus = field(default_factory=MemoryBus)
    make: Callable[[], Runtime] = DummyRuntime
    patience: float = 20.0

    def initializations(self) -> Initializations:
        audit = Audit(journal=self.store.journal, now=now, new_id=new_id)
        wakes = Wakes(self.bus, "worker")
        return Initializations(agents=self.agents, audit=audit, wakes=wakes, now=now, linger=60, patience=self.patience)

    async def serving(self) -> Runtime:
        return (await self.agents.find("mine")).runtime

    async def entries(self) -> int:
        return (await self.store.audit.head())[0]


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    store, agents = SqliteStore(tmp_path / "innkeeper.db"), AgentRegistry()
    await store.open()
    workshop = Workshop(store, agents)
    agents.register("mine", DummyRuntime(), maker=lambda: workshop.make())
    yield workshop
    await store.close()


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), asyncio.CancelledError(), ValueError("odd")],
    ids=repr,
)
async def test_whatever_the_code_of_an_agent_raises_is_told_and_it_serves_as_before(
    workshop: Workshop, error: BaseException
) -> None:
    def raising() -> Runtime:
        raise error

    before, workshop.make = await workshop.serving(), raising
    making = workshop.initializations()
    with pytest.raises(AgentNotInitialized) as refused:
        await making.initialize(ANN.owner, "mine")
    assert repr(error) in refused.value.message
    assert (await workshop.serving(), await workshop.entries()) == (before, 0)
    workshop.make = DummyRuntime
    await making.initialize(ANN.owner, "mine")
    assert await workshop.serving() is not before
    assert await workshop.entries() == 1
    await making.close()


async def test_code_that_never_ends_holds_one_thread_that_nobody_else_needs(workshop: Workshop) -> None:
    may_end, threads = threading.Event(), set()

    def hanging() -> Runtime:
        threads.add(threading.get_ident())
        may_end.wait(30)
        return DummyRuntime()

    workshop.make, workshop.patience = hanging, PATIENCE
    before, making = await workshop.serving(), workshop.initializations()
    for told in ("within", "has not ended yet"):
        with pytest.raises(AgentNotInitialized, match=told):
            await making.initialize(ANN.owner, "mine")
    (hung,) = threads
    others = {await asyncio.to_thread(threading.get_ident) for _ in range(3)}
    assert hung not in others and making._making is not None
    may_end.set()
    making._making.join(10)
    assert (await workshop.serving(), await workshop.entries()) == (before, 0), "what comes too late is not served"
    await making.initialize(ANN.owner, "mine")
    assert await workshop.entries() == 1
    await making.close()


async def test_what_another_process_has_made_and_this_one_cannot_is_in_the_log(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    def raising() -> Runtime:
        raise ZeroDivisionError("mine")

    before, workshop.make = await workshop.serving(), raising
    making = workshop.initializations()
    with caplog.at_level(logging.ERROR):
        making._follow("mine")
        async with asyncio.timeout(10):
            await asyncio.gather(*making._tasks)
    assert "ZeroDivisionError('mine')" in caplog.text
    assert await workshop.serving() is before
    await making.close()
