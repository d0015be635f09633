"""Runs that are not to be recorded: whoever reads one hears all of it, though its log is gone with its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.core.actions import Action, Answer
from innkeeper.core.agents import AgentDescription
from innkeeper.core.claims import Claim
from innkeeper.core.context import RunContext
from innkeeper.core.errors import RunConflict
from innkeeper.core.events import AgentEvent, Paused, TextDelta, read
from innkeeper.core.messages import Message
from innkeeper.core.runs import Run, StartRun, Turn
from innkeeper.services.pauses import ResumeRequest
from innkeeper.services.readings import RunReading
from innkeeper.services.runs import Runs
from innkeeper.testing.runtimes import new_context
from tests.support.inns import UNCOUNTED
from tests.support.turns import ANN

PART = "a part of what is said, " * 4096
PARTS = 12  # more than is kept in memory of a run whose log is in the store


class Talker:
    """Asks first, where it is told to, and then talks for long."""

    def describe(self) -> AgentDescription:
        return AgentDescription("talker")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        if turn.prompt == "ask" and turn.continuation is None:
            yield Paused((Action("may", "approval", "talk", "{}"),), "")
            return
        for _ in range(PARTS if turn.prompt == "talk" else 1):
            yield PART
            await context.saved()


@pytest.fixture
async def runs(tmp_path: Path) -> AsyncIterator[Runs]:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, **UNCOUNTED}))
    app.agent("talker")(Talker())
    yield (await app.kernel.start()).runs
    await app.kernel.stop()


async def heard(reading: RunReading) -> str:
    said = []
    while (batch := await reading.next()) is not None:
        events = [read(data) for segment in batch for data in segment.payloads()]
        said += [event.content for event in events if isinstance(event, TextDelta)]
    reading.close()
    return "".join(said)


def wanted(prompt: str) -> StartRun:
    return StartRun("talker", (Message("user", prompt),), "/chat", recorded=False)


async def ended(runs: Runs, run: Run) -> None:
    await runs.wait(ANN, run.id, 10)
    assert not (await runs.get(ANN, run.id)).input, "its contents are gone"


async def test_whoever_reads_slowly_hears_all_of_it(runs: Runs) -> None:
    started = await runs.start(ANN, wanted("talk"), new_context())
    assert started.tail is not None
    reading = runs.watch(started.tail)
    await ended(runs, started.run)
    assert await heard(reading) == PART * PARTS


async def test_whoever_lets_one_go_on_hears_all_that_follows(runs: Runs) -> None:
    waiting = await runs.start(ANN, wanted("ask"), new_context())
    await runs.wait(ANN, waiting.run.id, 10)
    answers = (Answer("may", "approve"),)
    resumed = await runs.resume(ANN, ResumeRequest(waiting.run.id, answers), new_context())
    assert resumed.tail is not None
    reading = runs.watch(resumed.tail, resumed.after)
    await ended(runs, resumed.run)
    assert await heard(reading) == PART


async def test_whoever_lets_one_go_on_a_second_time_by_the_same_request_is_told_that_nothing_was_kept(
    runs: Runs,
) -> None:
    waiting = await runs.start(ANN, wanted("ask"), new_context())
    await runs.wait(ANN, waiting.run.id, 10)
    request = ResumeRequest(waiting.run.id, (Answer("may", "approve"),), claim=Claim("key", "print"))
    first = await runs.resume(ANN, request, new_context())
    assert first.tail is not None
    assert (await runs.result(first.tail, lambda: False)).output == PART
    again = await runs.resume(ANN, request, new_context())
    assert again.is_repeated and again.tail is not None
    reading = runs.watch(again.tail, again.after)
    with pytest.raises(RunConflict, match="was not kept"):
        await runs.result(again.tail, lambda: False)
    with pytest.raises(RunConflict, match="was not kept"):
        await heard(reading)
