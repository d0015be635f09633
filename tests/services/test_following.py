"""Tails of runs that another process executes, and logs that are read again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from innkeeper.core.action_changes import PauseRun
from innkeeper.core.actions import Action
from innkeeper.core.changes import DeleteSession, Segment
from innkeeper.core.errors import RunConflict, RunNotFound
from innkeeper.core.events import (
    ActionRequired,
    Event,
    MessageInjected,
    RunEnded,
    RunFailed,
    RunResumed,
    RunStarted,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
    payload,
)
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.outcomes import Accepted
from innkeeper.core.runs import Plan, Run, RunError
from innkeeper.core.usage import Usage
from innkeeper.services.following import Following, replayed
from innkeeper.services.readings import RunReading
from innkeeper.services.tails import Tail
from innkeeper.storage.readers import StoredRuns
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import accept, accepted_by, end, events, fence, now, run_of

STARTED = RunStarted("run", "s", "echo")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "data" / "a.db")
    await opened.open()
    yield opened
    await opened.close()


async def _accepted(store: SqliteStore) -> Accepted:
    return await accepted_by(store, replace(accept("q", "s"), first=Segment(1, 1, payload(STARTED))))


async def _tell(store: SqliteStore, accepted: Accepted, first: int, *told: Event) -> None:
    await store.journal.commit((events(first, *map(payload, told)),), fence(accepted))


@pytest.mark.parametrize(
    ("after", "expected"),
    [(0, (4, [b"a", b"b", b"c"])), (3, (4, [b"a", b"b", b"c"])), (4, (5, [b"b", b"c"])), (5, (6, [b"c"]))],
)
def test_a_segment_beyond_a_point_is_what_follows_it(after: int, expected: tuple[int, list[bytes]]) -> None:
    rest = Segment(4, 3, b"a\nb\nc").beyond(after)
    assert (rest.first_seq, rest.payloads()) == expected
    assert (rest.count, rest.last_seq) == (len(expected[1]), 6)


async def test_a_log_is_read_again_as_the_run_was_told(store: SqliteStore) -> None:
    accepted = await _accepted(store)
    await _tell(store, accepted, 2, StepChanged(1, "started"), TextDelta("Let me "), TextDelta("see."))
    await _tell(store, accepted, 5, ToolCalled("look", "c1", "{}"), ToolReturned("look", "c1", "seen"))
    await _tell(store, accepted, 7, UsageReported(Usage(3, 4)), MessageInjected("hurry", "inj_1"))
    log = await replayed(store.runs, accepted.run.id)
    assert (log.last_seq, log.last) == (8, (UsageReported(Usage(3, 4)), MessageInjected("hurry", "inj_1")))
    assert (log.assembler.output, log.assembler.usage) == ("Let me see.", Usage(3, 4))
    assert [message.role for message in log.assembler.messages()] == ["assistant", "tool", "user"]


async def test_text_of_a_model_call_that_was_cut_off_is_void_once_the_run_is_taken_up_again(store: SqliteStore) -> None:
    accepted = await _accepted(store)
    await _tell(store, accepted, 2, StepChanged(1, "started"), TextDelta("One. "), StepChanged(1, "completed"))
    await _tell(store, accepted, 5, StepChanged(2, "started"), TextDelta("half a th"))
    await _tell(store, accepted, 7, RunResumed(2, output_length=5), StepChanged(2, "started"), TextDelta("Two."))
    log = await replayed(store.runs, accepted.run.id)
    assert log.assembler.output == "One. Two."
    assert log.assembler.messages() == (Message("assistant", "One. Two."),)
    assert log.last_seq == 9


async def test_of_a_run_that_began_anew_only_its_cost_is_left(store: SqliteStore) -> None:
    accepted = await _accepted(store)
    await _tell(store, accepted, 2, TextDelta("void"), UsageReported(Usage(1, 2)), ToolCalled("look", "c1", "{}"))
    await _tell(store, accepted, 5, RunResumed(2, is_restart=True), TextDelta("again"), UsageReported(Usage(1, 1)))
    log = await replayed(store.runs, accepted.run.id)
    assert (log.assembler.output, log.assembler.usage) == ("again", Usage(2, 3))
    assert log.assembler.messages() == (Message("assistant", "again"),)


async def test_a_log_that_is_not_there_is_empty(store: SqliteStore) -> None:
    log = await replayed(store.runs, "run_none")
    assert (log.last, log.last_seq, log.assembler.output) == ((), 0, "")


async def test_a_run_of_another_process_is_followed_to_its_end(store: SqliteStore) -> None:
    accepted = await _accepted(store)
    await _tell(store, accepted, 2, TextDelta("a"), TextDelta("b"))
    following = Following(store.runs)
    tail = following.follow(accepted.run)
    assert following.follow(accepted.run) is tail
    changed = tail.changed()
    await asyncio.wait_for(changed, 30)
    assert tail.head == 3
    await _tell(store, accepted, 4, TextDelta("c"))
    error = RunError("AGENT_FAILED", "It failed.")
    last = (RunFailed(error.code, error.message), RunEnded("run", "s", "failed", "abc", None, None))
    closing = Segment(5, 2, b"\n".join(payload(one) for one in last))
    change = replace(end(accepted, "abc", status="failed"), segment=closing, error=error)
    await store.journal.commit((change,), fence(accepted))
    following.wake([accepted.run.id])
    ending = await asyncio.wait_for(tail.ended, 30)
    assert (ending.status, ending.output, ending.error) == ("failed", "abc", error)
    told = [line for segment in tail.recent(accepted.run.last_seq) or () for line in segment.payloads()]
    expected: tuple[Event, ...] = (*map(TextDelta, "abc"), *last)
    assert told == [payload(one) for one in expected]
    assert (await run_of(store, accepted.run.id)).last_seq == tail.head == 6


async def test_a_run_that_is_deleted_while_it_is_followed_ends_its_tail(store: SqliteStore) -> None:
    following = Following(store.runs)
    tail = following.follow(accept("q", "s").run)
    assert (await asyncio.wait_for(tail.ended, 30)).status == "interrupted"
    with pytest.raises(RunNotFound, match="has been deleted"):
        await RunReading(store.runs, tail.run.id, tail, 0, following.left).next()


async def test_whoever_follows_a_run_that_is_not_kept_is_told_that_its_end_is_gone(store: SqliteStore) -> None:
    change = replace(accept("q", recorded=False), first=Segment(1, 1, payload(STARTED)))
    accepted = await accepted_by(store, change)
    following = Following(store.runs)
    reading = RunReading(store.runs, accepted.run.id, following.follow(accepted.run), 0, following.left)
    await _tell(store, accepted, 2, TextDelta("half an ans"))
    following.wake(None)
    while reading.after < 2:
        assert await asyncio.wait_for(reading.next(), 30)
    await store.journal.commit((end(accepted, "half an answer", seq=3),), fence(accepted))
    following.wake(None)
    with pytest.raises(RunConflict, match="was not kept"):
        await asyncio.wait_for(reading.next(), 30)
    assert not reading.is_complete


class Vanishing(StoredRuns):
    """The runs of a store whose session is deleted right after somebody has found one that waits for people."""

    def __init__(self, store: SqliteStore) -> None:
        super().__init__(store._fetch)
        self._journal = store.journal

    async def find(self, caller: Caller, run_id: str) -> Run | None:
        run = await super().find(caller, run_id)
        if run is not None and run.status == "requires_action":
            await self._journal.commit((DeleteSession(run.session_key),))
        return run


async def test_a_run_that_is_deleted_while_it_is_seen_to_wait_for_people_ends_its_tail(store: SqliteStore) -> None:
    accepted = await _accepted(store)
    actions = (Action("may", "approval", "talk", "{}"),)
    asked = Segment(2, 1, payload(ActionRequired(accepted.run.id, actions, "2030-01-01T00:00:00Z")))
    key, instant = accepted.run.session_key, now()
    pause = PauseRun(accepted.run.id, key, asked, instant, instant, actions, "", Plan())
    await store.journal.commit((pause,), fence(accepted))
    tail = Following(Vanishing(store)).follow(accepted.run)
    assert (await asyncio.wait_for(tail.ended, 30)).status == "interrupted"


async def test_whoever_counts_on_an_end_goes_on_without_once_nobody_follows_the_run(store: SqliteStore) -> None:
    accepted = await _accepted(store)
    following = Following(store.runs)
    tail = following.follow(accepted.run)
    RunReading(store.runs, accepted.run.id, tail, 0, following.left).close()
    async with asyncio.timeout(30):
        await asyncio.wait([tail.ended])
    assert following.follow(accepted.run) is not tail


async def test_whoever_comes_when_this_process_leaves_reads_what_is_stored(store: SqliteStore) -> None:
    accepted = await _accepted(store)
    following = Following(store.runs)
    following.cut()
    reading = RunReading(store.runs, accepted.run.id, following.follow(accepted.run), 0, following.left)
    assert await reading.next()
    assert await asyncio.wait_for(reading.next(), 30) is None
    assert reading.is_sent_away
    assert not reading.is_complete, "the run goes on, and its reader is told where to read on"


async def test_all_tails_of_a_run_are_cut_also_one_from_before_another_was_adopted(store: SqliteStore) -> None:
    accepted = await _accepted(store)
    following = Following(store.runs)
    early, adopted = following.follow(accepted.run), Tail(accepted.run)
    following.adopt(adopted)
    following.cut()
    assert (early.is_cut, adopted.is_cut) == (True, True)
