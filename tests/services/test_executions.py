"""Runs under way in one process: each ends, whatever its agent does and whoever else ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.core.actions import Action, Answer
from innkeeper.core.agents import AgentDescription
from innkeeper.core.changes import Change, Fence
from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed, StorageUnavailable
from innkeeper.core.events import AgentEvent, FinishNoted, Paused, StepChanged, ToolCalled
from innkeeper.core.identity import Caller
from innkeeper.core.injections import Injection
from innkeeper.core.messages import Message
from innkeeper.core.outcomes import Outcome
from innkeeper.core.runs import StartRun, Turn
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import InjectionReader
from innkeeper.services import cancellations
from innkeeper.services.executions import Executions
from innkeeper.services.live import LiveRun
from innkeeper.services.pauses import ResumeRequest
from innkeeper.services.settlements import Settlements
from innkeeper.testing.runtimes import new_context
from innkeeper.wiring.assembly import Started
from tests.support.inns import UNCOUNTED
from tests.support.turns import (
    ANN,
    accept,
    accepted_by,
    fence,
    inject,
    injected_by,
    new_id,
    now,
    run_of,
    taken_over,
)


class Stubborn:
    """Begins, waits until it may speak, and then reacts to nothing until the test lets it go."""

    def __init__(self) -> None:
        self.began, self.may_speak, self.may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.heeds = False

    def describe(self) -> AgentDescription:
        return AgentDescription("stubborn")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[str]:
        self.began.set()
        await self.may_speak.wait()
        yield "Too late."
        while not self.may_end.is_set():
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                if self.heeds:
                    raise


UNKEEPABLE: dict[str, AgentEvent] = {
    "too many steps": StepChanged(10**30, "started"),
    "an unknown reason": FinishNoted("\ud800"),  # type: ignore[arg-type]
}


class Teller:
    """Tells what no store could keep."""

    def describe(self) -> AgentDescription:
        return AgentDescription("teller")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        yield UNKEEPABLE[turn.prompt]
        yield "and more"


async def cancels_itself(messages: list[object]) -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return "Done."


async def raises_a_group(messages: list[object]) -> str:
    raise BaseExceptionGroup("what a group of tasks raises", [SystemExit(3)])


@pytest.fixture
def stubborn() -> Stubborn:
    return Stubborn()


@pytest.fixture
async def served(tmp_path: Path, stubborn: Stubborn) -> AsyncIterator[Started]:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, **UNCOUNTED}))
    app.agent("stubborn")(stubborn)
    app.agent("teller")(Teller())
    app.agent("asking")(Asking())
    app.agent("cancels_itself")(cancels_itself)
    app.agent("raises_a_group")(raises_a_group)
    yield await app.kernel.start()
    stubborn.may_speak.set()
    stubborn.may_end.set()
    await app.kernel.stop()


def wanted(agent: str, said: str = "Hi") -> StartRun:
    return StartRun(agent, (Message("user", said),), "/chat")


def in_a_hurry(served: Started) -> Executions:
    """What ends runs that do not react, after a moment."""
    executions = served.runs._executions
    executions._limits = replace(executions._limits, stop_seconds=0.02)
    return executions


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("agent", "expected"), [("cancels_itself", ("completed", "Done.")), ("raises_a_group", ("failed", ""))]
)
async def test_a_run_ends_whatever_its_agent_does_to_the_task_that_runs_it(
    served: Started, agent: str, expected: tuple[str, str]
) -> None:
    started = await served.runs.start(ANN, wanted(agent), new_context())
    assert started.tail is not None
    ending = await asyncio.wait_for(served.runs.result(started.tail, lambda: False), 30)
    assert (ending.status, ending.output) == expected
    assert (await run_of(served.store, started.run.id)).status == expected[0]  # type: ignore[arg-type]
    assert served.runs.active == 0


class Asking:
    """Asks first, and once it may go on, does so for long."""

    def describe(self) -> AgentDescription:
        return AgentDescription("asking")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        if turn.continuation is None:
            yield Paused((Action("may", "approval", "talk", "{}"),), "")
            return
        await asyncio.Event().wait()


class Slow:
    """A journal that is asked at once, and whose answers come when they may."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    def commit(self, changes: Sequence[Change], fence: Fence | None = None) -> asyncio.Future[tuple[Outcome, ...]]:
        return asyncio.ensure_future(self._commit(changes, fence))

    async def _commit(self, changes: Sequence[Change], fence: Fence | None) -> tuple[Outcome, ...]:
        outcomes = await self._journal.commit(changes, fence)
        self.asked.set()
        await self.may_answer.wait()
        return outcomes


async def test_a_run_that_is_let_go_on_as_the_server_leaves_ends_with_it(served: Started) -> None:
    runs = served.runs
    asked = await runs.start(ANN, wanted("asking"), new_context())
    await runs.wait(ANN, asked.run.id, 30)
    runs.pauses.journal = slow = Slow(served.store.journal)
    answers = ResumeRequest(asked.run.id, (Answer("may", "approve"),))
    resuming = asyncio.ensure_future(runs.resume(ANN, answers, new_context()))
    await slow.asked.wait()
    draining = asyncio.create_task(runs.drain(0.05))
    resuming.cancel()  # its client is gone, too
    await asyncio.wait([resuming])
    for _ in range(50):  # the server has sent away by then whatever it knew of
        await asyncio.sleep(0)
    slow.may_answer.set()
    await draining
    assert (await runs.get(ANN, asked.run.id)).status == "interrupted"


async def test_a_run_that_is_left_to_others_is_left_once_however_long_the_store_takes(
    served: Started, stubborn: Stubborn
) -> None:
    runs, executions, stubborn.heeds = served.runs, in_a_hurry(served), True
    started = await runs.start(ANN, replace(wanted("stubborn"), background=True), new_context())
    await stubborn.began.wait()
    live = executions.find(started.run.id)
    assert live is not None
    live._journal = slow = Slow(served.store.journal)
    stubborn.may_speak.set()
    await slow.asked.wait()
    draining = asyncio.create_task(runs.drain(0))
    await asyncio.sleep(0.1)  # longer than a run that does not react is waited for
    slow.may_answer.set()
    await draining
    assert (executions._running, runs.active) == (0, 0)
    assert (await runs.get(ANN, started.run.id)).status == "queued"


@pytest.mark.parametrize("told", UNKEEPABLE)
async def test_a_run_whose_agent_tells_what_cannot_be_kept_fails(served: Started, told: str) -> None:
    started = await served.runs.start(ANN, wanted("teller", told), new_context())
    assert started.tail is not None
    ending = await asyncio.wait_for(served.runs.result(started.tail, lambda: False), 30)
    assert (ending.status, ending.error is None) == ("failed", False)


async def test_a_run_that_was_taken_over_waits_for_no_agent_that_does_not_react(
    served: Started, stubborn: Stubborn
) -> None:
    in_a_hurry(served)
    started = await served.runs.start(ANN, wanted("stubborn"), new_context())
    assert started.tail is not None
    await stubborn.began.wait()
    ((run, heirs),) = await taken_over(served.store)  # type: ignore[arg-type]
    stubborn.may_speak.set()
    await until(lambda: served.runs.active == 0)
    await Settlements(served.store.journal, now, new_id).end_inherited(served.store.runs, run, heirs)
    served.runs._following.wake(None)
    ending = await asyncio.wait_for(served.runs.result(started.tail, lambda: False), 30)
    assert (ending.status, ending.output) == ("interrupted", "")


async def test_a_cancel_reaches_whoever_has_taken_the_run_over(served: Started, stubborn: Stubborn) -> None:
    started = await served.runs.start(ANN, wanted("stubborn"), new_context())
    await stubborn.began.wait()
    await taken_over(served.store)  # type: ignore[arg-type]
    assert await served.store.runs.cancelled("heir") == []
    await served.runs.cancel(ANN, started.run.id)
    await until(lambda: served.runs.active == 0)
    async with asyncio.timeout(30):
        while not (asked := await served.store.runs.cancelled("heir")):
            await asyncio.sleep(0.005)
    assert asked == [started.run.id]


class Failing:
    """A journal that does not answer the first call."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.has_failed = False

    def commit(self, changes: Sequence[Change], fence: Fence | None = None) -> asyncio.Future[tuple[Outcome, ...]]:
        if self.has_failed:
            return self._journal.commit(changes, fence)
        self.has_failed = True
        unanswered: asyncio.Future[tuple[Outcome, ...]] = asyncio.get_running_loop().create_future()
        unanswered.set_exception(StorageUnavailable("The store did not answer in time."))
        return unanswered


async def test_a_run_that_waits_for_people_makes_way_though_the_store_was_away(
    served: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellations, "_RETRY_SECONDS", 0.01)
    runs = served.runs
    asked = await runs.start(ANN, wanted("asking"), new_context())
    await runs.wait(ANN, asked.run.id, 30)
    runs._cancellations._journal = failing = Failing(served.store.journal)
    runs._cancellations.interrupt(ANN, asked.run.id, "")
    async with asyncio.timeout(30):
        while (await runs.get(ANN, asked.run.id)).status != "cancelled":
            await asyncio.sleep(0.005)
    assert failing.has_failed


class Away:
    """The injections of a store that does not answer at first."""

    def __init__(self, injections: InjectionReader) -> None:
        self._injections = injections
        self.asked = 0

    async def find(self, caller: Caller, injection_id: str) -> Injection | None:
        return await self._injections.find(caller, injection_id)

    async def has_accepted(self, run_id: str) -> bool:
        self.asked += 1
        if self.asked == 1:
            raise StorageUnavailable("The store did not answer in time.")
        return await self._injections.has_accepted(run_id)


async def test_what_was_injected_is_heard_though_the_store_was_away(served: Started) -> None:
    accepted = await accepted_by(served.store, accept())  # type: ignore[arg-type]
    injection = await injected_by(served.store, inject("hurry", run_id=accepted.run.id))  # type: ignore[arg-type]
    injections = Away(served.store.injections)
    live = LiveRun(accepted.run, fence(accepted), new_context(), served.store.journal, injections)
    heard = await asyncio.wait_for(live.receive(), 30)
    assert [(message.id, message.content) for message in heard] == [(injection.id, "hurry")]


async def test_no_tool_is_called_for_a_run_that_another_process_has_taken_over(served: Started) -> None:
    accepted = await accepted_by(served.store, accept())  # type: ignore[arg-type]
    live = LiveRun(accepted.run, fence(accepted), new_context(), served.store.journal, served.store.injections)
    await taken_over(served.store)  # type: ignore[arg-type]
    live.emit(ToolCalled("pay", "c1", "{}"))
    with pytest.raises(AgentFailed, match="not this process's"):
        await asyncio.wait_for(live.saved(), 30)
