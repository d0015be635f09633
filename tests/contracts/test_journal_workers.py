"""Workers in the journal: who is alive by the database's clock, and what becomes of the runs of the dead."""

from __future__ import annotations

import asyncio

from innkeeper.core.changes import KeepWorker, RetireWorkers, TakeDead
from innkeeper.core.outcomes import Done, Ended, Inherited, Stale
from tests.support.turns import (
    ANN,
    BOB,
    Store,
    accept,
    accepted_by,
    end,
    events,
    fence,
    inject,
    injected_by,
    receipt_of,
    run_of,
    spoken,
    taken_by,
    taken_over,
)


async def _inherited(store: Store, change: TakeDead) -> Inherited:
    (outcome,) = await store.journal.commit((change,))
    assert isinstance(outcome, Inherited)
    return outcome


async def test_a_worker_is_known_until_it_retires(store: Store) -> None:
    for _ in range(2):
        assert await store.journal.commit((KeepWorker("w-1", "place/1"),)) == (Done(),)
    await store.journal.commit((KeepWorker("w-2", "place/2"),))
    assert sorted(await store.workers.processes()) == [("w-1", "place/1"), ("w-2", "place/2")]
    for _ in range(2):
        assert await store.journal.commit((RetireWorkers(("w-1", "w-none")),)) == (Done(),)
    assert await store.workers.processes() == [("w-2", "place/2")]


async def test_one_worker_that_enters_twice_at_once_is_one(store: Store) -> None:
    await asyncio.gather(*(store.journal.commit((KeepWorker("w-1", "place/1"),)) for _ in range(8)))
    assert await store.workers.processes() == [("w-1", "place/1")]


async def test_the_runs_of_a_worker_that_is_alive_are_left_alone(store: Store) -> None:
    await store.journal.commit((KeepWorker("w-1", "place/1"),))
    accepted = await accepted_by(store, accept("q", "s", worker="w-1"))
    await accepted_by(store, accept("q", "t", background=True))
    await taken_by(store, "w-1")
    assert await taken_over(store) == ()
    assert await store.journal.commit((events(2, b"x"),), fence(accepted, worker="w-1")) == (Done(),)


async def test_a_worker_that_is_not_seen_for_too_long_is_dead_and_struck_out(store: Store) -> None:
    for worker in ("w-1", "heir"):
        await store.journal.commit((KeepWorker(worker, f"place/{worker}"),))
    accepted = await accepted_by(store, accept("q", "s", worker="w-1"))
    await asyncio.sleep(0.15)  # its clock is the database's, which no test can move
    assert await _inherited(store, TakeDead("heir", 3, patience=60)) == Inherited()
    ((run, held),) = (await _inherited(store, TakeDead("heir", 3, patience=0.1))).runs
    assert (run, held.worker) == (accepted.run, "heir")
    assert await store.journal.commit((events(2, b"x"),), fence(accepted, worker="w-1")) == (Stale(),)
    assert await store.journal.commit((events(2, b"x"),), held) == (Done(),)
    assert await store.workers.processes() == [("heir", "place/heir")]


async def test_a_worker_that_was_taken_for_dead_enters_again(store: Store) -> None:
    await store.journal.commit((KeepWorker("w-1", "place/1"),))
    await asyncio.sleep(0.02)
    await _inherited(store, TakeDead("heir", 3, patience=0.01))
    await store.journal.commit((KeepWorker("w-1", "place/1"),))
    accepted = await accepted_by(store, accept("q", "s", worker="w-1"))
    assert await taken_over(store) == ()
    assert (await run_of(store, accepted.run.id)).status == "running"


async def test_background_runs_of_the_dead_are_queued_again_until_they_were_tried_too_often(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s", background=True))
    for attempt in (1, 2):
        taken = await taken_by(store, f"w-{attempt}")
        assert taken is not None
        assert taken.run.attempt == attempt
        assert await _inherited(store, TakeDead("heir", max_attempts=3)) == Inherited((), 1)
        assert (await run_of(store, accepted.run.id)).status == "queued"
        assert await store.journal.commit((events(2, b"x"),), fence(taken, worker=f"w-{attempt}")) == (Stale(),)
    await taken_by(store, "w-3")
    ((run, held),) = (await _inherited(store, TakeDead("heir", max_attempts=3))).runs
    assert (run.id, run.attempt) == (accepted.run.id, 3)
    change = end(accepted, (), status="failed")
    assert await store.journal.commit((change,), held) == (Ended(None),)
    assert await spoken(store, "s") == ["q"]


async def test_a_background_run_that_was_asked_to_end_is_ended_and_not_queued_again(store: Store) -> None:
    await accepted_by(store, accept("q", "s", background=True))
    await taken_by(store, "w-1")
    await accepted_by(store, accept("q2", "s", when_busy="interrupt"))
    inherited = await _inherited(store, TakeDead("heir", max_attempts=3))
    assert inherited.queued == 0
    assert [run.is_cancelling for run, _ in inherited.runs] == [True, False]


async def test_turns_that_waited_in_a_dead_process_are_taken_over_and_queued_work_is_not(store: Store) -> None:
    running = await accepted_by(store, accept("q", "s"))
    waiting = await accepted_by(store, accept("q", "s"))
    work = await accepted_by(store, accept("q", "s", background=True))
    taken = await taken_over(store)
    assert [run.id for run, _ in taken] == [running.run.id, waiting.run.id]
    assert (await run_of(store, work.run.id)).status == "queued"


async def test_what_was_injected_into_a_dead_workers_run_reaches_the_next_attempt(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s", background=True))
    await taken_by(store, "w-1")
    told = await injected_by(store, inject("x"))
    await _inherited(store, TakeDead("heir", max_attempts=3))
    assert await receipt_of(store, told.id) == told
    assert await taken_by(store, "w-2") is not None
    assert await store.injections.has_accepted(accepted.run.id)


async def test_runs_are_taken_over_so_many_at_a_time(store: Store) -> None:
    made = [(await accepted_by(store, accept("q", f"s{n}"))).run.id for n in range(5)]
    taken = [[run.id for run, _ in (await _inherited(store, TakeDead("heir", 3, limit=2))).runs] for _ in range(4)]
    assert taken == [made[:2], made[2:4], made[4:], []]


async def test_several_heirs_take_each_run_once(store: Store) -> None:
    heirs = [f"heir-{n}" for n in range(4)]
    for heir in heirs:
        await store.journal.commit((KeepWorker(heir, heir),))
    made = [(await accepted_by(store, accept("q", f"s{n}", caller=(ANN, BOB)[n % 2]))).run.id for n in range(20)]
    calls = [_inherited(store, TakeDead(heirs[n % 4], 3, limit=3)) for n in range(40)]
    taken = [run.id for told in await asyncio.gather(*calls) for run, _ in told.runs]
    assert set(taken) == set(made)
    assert len(taken) == len(made)
