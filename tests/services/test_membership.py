"""One worker among those of a store: what it looks after, and what it ends that nobody executes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from innkeeper.buses.memory import MemoryBus
from innkeeper.core.changes import KeepWorker, ReleaseRun, RequestCancel, Segment, TakeDead
from innkeeper.core.events import RunStarted, TextDelta, payload
from innkeeper.core.outcomes import Accepted, Inherited
from innkeeper.core.runs import Run
from innkeeper.core.times import Instant
from innkeeper.services import membership
from innkeeper.services.membership import Membership
from innkeeper.services.settlements import Settlements
from innkeeper.services.wakes import Wakes
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import ANN, WORKER, accept, accepted_by, events, fence, new_id, now, run_of, spoken, taken_by


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "data" / "a.db")
    await opened.open()
    yield opened
    await opened.close()


def _member(store: SqliteStore, *, is_shared: bool = False, gone: str | None = None) -> Membership:
    return Membership(
        journal=store.journal,
        runs=store.runs,
        workers=store.workers,
        settlements=Settlements(store.journal, now, new_id),
        wakes=Wakes(MemoryBus(), WORKER),
        worker=WORKER,
        process="here",
        now=now,
        is_shared=is_shared,
        max_attempts=3,
        is_gone=lambda process: process == gone,
    )


def _watch(member: Membership, *known: str) -> list[str]:
    """Begin to look; returns what the member is told to cancel, once a look."""
    cancelled: list[str] = []
    member.watch(
        on_cancel=cancelled.append,
        on_turn=lambda run_id: None,
        on_work=lambda: None,
        knows=known.__contains__,
        waiting=tuple,
    )
    return cancelled


async def _accepted(store: SqliteStore, session_id: str, worker: str = WORKER, *, background: bool = False) -> Accepted:
    """A run with the beginning of a true log."""
    change = accept("q", session_id, worker=worker, background=background)
    first = payload(RunStarted(change.run.id, session_id, "echo"))
    return await accepted_by(store, replace(change, first=Segment(1, 1, first)))


async def _ended(store: SqliteStore, run_id: str) -> Run:
    async with asyncio.timeout(30):
        while (run := await run_of(store, run_id)).ended_at is None:
            await asyncio.sleep(0.005)
    return run


async def test_a_run_that_this_worker_holds_and_nobody_executes_is_ended(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "_LOOK_SECONDS", 0.01)
    member = _member(store)
    await member.enter()
    orphan, known = await _accepted(store, "s"), await _accepted(store, "t")
    await store.journal.commit((events(2, payload(TextDelta("half an ans"))),), fence(orphan))
    _watch(member, known.run.id)
    run = await _ended(store, orphan.run.id)
    assert (run.status, run.output) == ("interrupted", "half an ans")
    assert await spoken(store, "s") == ["q", "half an ans"]
    assert (await run_of(store, known.run.id)).status == "running"
    await member.leave()


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_run_in_the_background_that_nobody_executes_goes_back_into_the_queue(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    """As after a commit that took it and whose outcome was never learned; but not more often than it is tried."""
    monkeypatch.setattr(membership, "_LOOK_SECONDS", 0.01)
    work = await _accepted(store, "s", background=True)
    for attempt in range(attempts):
        taken = await taken_by(store)
        assert taken is not None
        if attempt < attempts - 1:
            await store.journal.commit((ReleaseRun(work.run.id),), fence(taken))
    member = _member(store)
    await member.enter()
    _watch(member)
    expected = "queued" if attempts < 3 else "failed"
    async with asyncio.timeout(30):
        while (await run_of(store, work.run.id)).status != expected:
            await asyncio.sleep(0.005)
    await member.leave()


async def test_a_turn_that_waits_for_a_session_which_was_deleted_elsewhere_is_told_to_look(store: SqliteStore) -> None:
    held = await _accepted(store, "s")
    told: asyncio.Queue[str] = asyncio.Queue()
    member = _member(store)
    await member.enter()
    member.watch(
        on_cancel=lambda run_id: None,
        on_turn=told.put_nowait,
        on_work=lambda: None,
        knows=lambda run_id: True,
        waiting=lambda: [held.run.id, "run_deleted"],
    )
    async with asyncio.timeout(30):
        assert await told.get() == "run_deleted"
    assert told.empty(), "the other one is in the store"
    await member.leave()


async def test_a_run_that_is_new_is_no_orphan_however_often_its_worker_is_woken(store: SqliteStore) -> None:
    member = _member(store, is_shared=True)
    await member.enter()
    accepted = await _accepted(store, "s")
    await store.journal.commit((RequestCancel(accepted.run.id, ANN.owner, "other", Instant(1)),))
    looks = _watch(member)
    async with asyncio.timeout(30):
        while len(looks) < 20:
            member.look()
            await asyncio.sleep(0.001)
    assert (await run_of(store, accepted.run.id)).status == "running"
    await member.leave()


@pytest.mark.parametrize("is_shared", [False, True])
async def test_an_end_that_was_asked_for_in_the_store_is_told_without_a_wake_up(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    """Also where no other process serves the store: the run may have been asked while it was being taken."""
    monkeypatch.setattr(membership, "_LOOK_SECONDS", 0.05)
    member = _member(store, is_shared=is_shared)
    await member.enter()
    accepted = await _accepted(store, "s")
    told = _watch(member, accepted.run.id)
    await store.journal.commit((RequestCancel(accepted.run.id, ANN.owner, "other", Instant(1)),))
    async with asyncio.timeout(30):
        while accepted.run.id not in told:
            await asyncio.sleep(0.005)
    await member.leave()


async def test_a_worker_that_is_woken_all_the_time_still_says_that_it_is_alive(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "_LOOK_SECONDS", 0.05)
    member = _member(store, is_shared=True)
    await member.enter()
    accepted = await _accepted(store, "s")
    _watch(member, accepted.run.id)
    await asyncio.sleep(0.06)
    for _ in range(200):
        member.look()
        await asyncio.sleep(0.01)
    assert await store.journal.commit((TakeDead("other", 3, patience=1.5),)) == (Inherited(),)
    await member.leave()
    assert await store.workers.processes() == []


async def test_whoever_enters_ends_what_the_dead_have_left_and_queues_their_work_again(store: SqliteStore) -> None:
    running = await _accepted(store, "s", "dead")
    waiting = await _accepted(store, "s", "dead")
    work = await _accepted(store, "t", background=True)
    assert await taken_by(store, "dead") is not None
    await _member(store).enter()
    statuses = [(await run_of(store, one.run.id)).status for one in (running, waiting, work)]
    assert statuses == ["interrupted", "interrupted", "queued"]


@pytest.mark.parametrize("is_certain", [True, False])
async def test_a_worker_whose_process_is_known_to_have_died_is_not_waited_for(
    store: SqliteStore, is_certain: bool
) -> None:
    await store.journal.commit((KeepWorker("other", "there"),))
    accepted = await _accepted(store, "s", "other")
    member = _member(store, is_shared=True, gone="there" if is_certain else None)
    await member.enter()
    if is_certain:
        assert (await _ended(store, accepted.run.id)).status == "interrupted"
    assert (await run_of(store, accepted.run.id)).status == ("interrupted" if is_certain else "running")
    known = {worker for worker, _ in await store.workers.processes()}
    assert known == ({WORKER} if is_certain else {WORKER, "other"})
    await member.leave()
