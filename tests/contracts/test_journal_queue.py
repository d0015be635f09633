"""Background runs in the journal: queued with the accept, taken once, taken up again, cancelled, left to others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from innkeeper.core.changes import DeliverInjections, Fence, ReleaseRun, RequestCancel, TakeQueued
from innkeeper.core.outcomes import Cancelling, Delivered, Done, Ended, Missing, Stale, Taken
from innkeeper.core.runs import Parameters, Plan, RunStatus
from innkeeper.core.times import Instant
from tests.support.turns import (
    ANN,
    BOB,
    WORKER,
    Store,
    accept,
    accepted_by,
    assistant,
    began_by,
    begin,
    end,
    events,
    fence,
    given,
    inject,
    injected_by,
    log_of,
    now,
    receipt_of,
    run_of,
    session_called,
    spoken,
    take_turn,
    taken_by,
    taken_over,
    user,
)

# accepting and taking


async def test_a_background_run_is_queued_for_nobody_and_says_nothing_until_it_is_taken(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s", background=True))
    assert (accepted.run.status, accepted.run.background, accepted.run.started_at) == ("queued", True, None)
    assert accepted.lineage is None
    assert await run_of(store, accepted.run.id) == accepted.run
    assert await spoken(store, "s") == []
    assert await store.journal.commit((events(2, b"x"),), fence(accepted)) == (Stale(),)
    assert await store.runs.owned(WORKER) == []


async def test_who_takes_a_run_gets_all_that_is_needed_to_execute_it(store: Store) -> None:
    await take_turn(store, "q0", "s", "a0")
    wishes = Parameters(temperature=0.5, stop=("a", "b"), tools=({"type": "function"},), variables={"x": [1]})
    plan = Plan(wishes, "append")
    change = accept([user("unheard of"), assistant("…"), user("q")], "s", background=True, plan=plan)
    await accepted_by(store, change)
    instant = now()
    (taken,) = await store.journal.commit((TakeQueued("w-2", instant),))
    assert isinstance(taken, Taken)
    assert taken.plan == plan
    assert taken.run == await run_of(store, change.run.id)
    assert (taken.run.status, taken.run.started_at, taken.run.attempt) == (RunStatus.RUNNING, instant, 1)
    assert [message.text for message in await given(store, taken.begun.lineage)] == ["q0", "a0", "q"]
    held = Fence(taken.run.id, "w-2", taken.begun.epoch)
    assert await store.runs.owned("w-2") == [(taken.run, held)]
    assert await store.journal.commit((events(2, b"x"),), held) == (Done(),)


async def test_the_run_that_has_waited_longest_is_taken_first(store: Store) -> None:
    ids = [(await accepted_by(store, accept("q", f"s{n}", background=True))).run.id for n in range(5)]
    assert await store.runs.has_queued()
    taken = [await taken_by(store) for _ in range(6)]
    assert [one and one.run.id for one in taken] == [*ids, None]
    assert not await store.runs.has_queued()


async def test_those_that_have_not_begun_are_counted_in_all_and_of_one_owner(store: Store) -> None:
    await accepted_by(store, accept("q", "s"))
    for caller in (ANN, ANN, BOB):
        await accepted_by(store, accept("q", f"s{now()}", background=True, caller=caller))
    assert await store.runs.count_queued(ANN.owner) == (3, 2)
    assert await store.runs.count_queued(BOB.owner) == (3, 1)
    await taken_by(store)
    assert await store.runs.count_queued(ANN.owner) == (2, 1)


async def test_a_background_run_waits_for_the_turns_before_it_and_they_for_it(store: Store) -> None:
    first = await accepted_by(store, accept("q1", "s"))
    second = await accepted_by(store, accept("q2", "s", background=True))
    waits = accept("q3", "s")
    third = await accepted_by(store, waits)
    elsewhere = await accepted_by(store, accept("q", "t", background=True))
    taken = await taken_by(store)
    assert taken is not None
    assert taken.run.id == elsewhere.run.id
    assert await taken_by(store) is None
    assert await store.journal.commit((end(first, "a1"),), fence(first)) == (Ended(second.run.id),)
    assert type((await store.journal.commit((begin(waits, third),)))[0]).__name__ == "NotYet"
    taken = await taken_by(store)
    assert taken is not None
    assert taken.run.id == second.run.id
    assert await store.journal.commit((end(taken, "a2"),), fence(taken)) == (Ended(third.run.id),)
    begun = await began_by(store, waits, third)
    assert begun.lineage is not None
    assert [m.text for m in await given(store, begun.lineage)] == ["q1", "a1", "q2", "a2", "q3"]


async def test_a_background_run_in_a_session_of_its_own_may_be_forgotten(store: Store) -> None:
    accepted = await accepted_by(store, accept("secret", background=True, recorded=False))
    taken = await taken_by(store)
    assert taken is not None
    assert taken.lineage is not None
    assert [m.text for m in await given(store, taken.lineage)] == ["secret"]
    assert await store.journal.commit((end(taken, "secret"),), fence(taken)) == (Ended(None),)
    run = await run_of(store, accepted.run.id)
    assert (run.status, run.input, run.output) == ("completed", (), None)


async def test_takers_in_two_processes_take_each_run_once(store_maker: Callable[[], Store]) -> None:
    first = store_maker()
    async with AsyncExitStack() as stack:
        stores = [first, store_maker()] if first.is_shared else [first]
        for one in stores:
            await one.open()
            stack.push_async_callback(one.close)
        changes = [accept(f"q{n}", f"s{n // 2}", background=True) for n in range(40)]
        await asyncio.gather(*(first.journal.commit((change,)) for change in changes))
        taken: list[str] = []

        async def takes(index: int) -> None:
            worker = f"w-{index}"
            store = stores[index % len(stores)]
            while len(taken) < 40:
                if (one := await taken_by(store, worker)) is None:
                    await asyncio.sleep(0.005)
                    continue
                taken.append(one.run.id)
                await store.journal.commit((end(one, "a"),), fence(one, worker=worker))

        async with asyncio.timeout(60):
            await asyncio.gather(*(takes(index) for index in range(6)))
        assert sorted(taken) == sorted(change.run.id for change in changes)
        assert await spoken(first, "s0") == ["q0", "a", "q1", "a"]
        runs, _ = await first.runs.page(ANN, limit=50)
        assert {(run.status, run.attempt) for run in runs} == {(RunStatus.COMPLETED, 1)}


# a second attempt


async def test_a_run_that_is_released_is_taken_up_again_by_another(store: Store) -> None:
    await accepted_by(store, accept("q", "s", background=True))
    first = await taken_by(store, "w-1")
    assert first is not None
    await store.journal.commit((events(2, b"two"),), fence(first, worker="w-1"))
    assert await store.journal.commit((ReleaseRun(first.run.id),), fence(first, worker="w-1")) == (Done(),)
    assert (await run_of(store, first.run.id)).status == "queued"
    assert await store.runs.has_queued()
    assert await store.journal.commit((events(3, b"x"),), fence(first, worker="w-1")) == (Stale(),)
    second = await taken_by(store, "w-2")
    assert second is not None
    assert second.run == await run_of(store, first.run.id)
    assert (second.run.attempt, second.run.started_at, second.run.last_seq) == (2, first.run.started_at, 2)
    assert second.epoch > first.epoch
    assert second.lineage == first.lineage
    assert await spoken(store, "s") == ["q"]
    assert await log_of(store, second.run.id) == [b'{"type":"run"}', b"two"]
    await store.journal.commit((end(second, "a", seq=3),), fence(second, worker="w-2"))
    assert await spoken(store, "s") == ["q", "a"]


async def test_only_its_owner_releases_a_run_and_only_one_in_the_background(store: Store) -> None:
    interactive = await accepted_by(store, accept("q", "s"))
    assert await store.journal.commit((ReleaseRun(interactive.run.id),), fence(interactive)) == (Stale(),)
    await accepted_by(store, accept("q", "t", background=True))
    taken = await taken_by(store)
    assert taken is not None
    for behind in (fence(taken, taken.epoch + 1), fence(taken, worker="another")):
        assert await store.journal.commit((ReleaseRun(taken.run.id),), behind) == (Stale(),)
    await store.journal.commit((end(taken),), fence(taken))
    assert await store.journal.commit((ReleaseRun(taken.run.id),), fence(taken)) == (Stale(),)
    assert {run.status for run in (await store.runs.page(ANN, limit=9))[0]} == {"running", "completed"}


async def test_what_was_injected_between_two_attempts_reaches_the_second(store: Store) -> None:
    await accepted_by(store, accept("q", "s", background=True))
    first = await taken_by(store)
    assert first is not None
    before = await injected_by(store, inject("before"))
    await store.journal.commit((ReleaseRun(first.run.id),), fence(first))
    between = await injected_by(store, inject("between", run_id=first.run.id))
    assert ((await receipt_of(store, before.id)).status, between.status) == ("accepted", "deferred")
    second = await taken_by(store)
    assert second is not None
    assert second.first is None
    assert (await receipt_of(store, between.id)).run_id == first.run.id
    assert await store.injections.has_accepted(first.run.id)
    (told,) = await store.journal.commit((DeliverInjections(1, now()),), fence(second))
    assert isinstance(told, Delivered)
    assert [message.content for message in told.messages] == ["before", "between"]
    assert await spoken(store, "s") == ["q"]


async def test_what_a_second_attempt_adopted_and_did_not_take_waits_again(store: Store) -> None:
    await accepted_by(store, accept("q", "s", background=True))
    first = await taken_by(store)
    assert first is not None
    await store.journal.commit((ReleaseRun(first.run.id),), fence(first))
    between = await injected_by(store, inject("between", run_id=first.run.id))
    second = await taken_by(store)
    assert second is not None
    await store.journal.commit((end(second, "a"),), fence(second))
    assert (await receipt_of(store, between.id)).status == "deferred"
    following = await accepted_by(store, accept("q2", "s"))
    assert following.lineage is not None
    assert [m.text for m in await given(store, following.lineage)] == ["q", "a", "between", "q2"]


# making way and being cancelled


async def test_a_turn_that_interrupts_asks_the_run_under_way_to_end_and_waits(store: Store) -> None:
    first = await accepted_by(store, accept("q1", "s"))
    await accepted_by(store, accept("q2", "s"))
    third = await accepted_by(store, accept("q3", "s", when_busy="interrupt"))
    assert third.interrupts == (first.run.id, WORKER)
    assert (third.run.status, third.run.turn) == ("queued", 3)
    assert (await run_of(store, first.run.id)).is_cancelling
    assert await store.runs.cancelled(WORKER) == [first.run.id]
    assert await store.runs.cancelled("another") == []
    await store.journal.commit((end(first, "a", status="cancelled"),), fence(first))
    assert await store.runs.cancelled(WORKER) == []
    assert (await accepted_by(store, accept("q4", "s", when_busy="interrupt"))).interrupts is None


async def test_a_free_session_has_nothing_to_interrupt(store: Store) -> None:
    accepted = await accepted_by(store, accept("q1", "s", when_busy="interrupt"))
    assert (accepted.run.status, accepted.interrupts) == ("running", None)


async def test_a_cancel_reaches_whoever_executes_the_run(store: Store) -> None:
    running = await accepted_by(store, accept("q1", "s", worker="w-1"))
    waiting = await accepted_by(store, accept("q2", "s", worker="w-2"))
    for accepted, worker in ((running, "w-1"), (waiting, "w-2")):
        for _ in range(2):
            (told,) = await store.journal.commit((RequestCancel(accepted.run.id, ANN.owner, "w-3", Instant(1)),))
            assert told == Cancelling(worker)
        assert await store.runs.cancelled(worker) == [accepted.run.id]
        assert (await run_of(store, accepted.run.id)).is_cancelling
    await store.journal.commit((end(running, "a", status="cancelled"),), fence(running, worker="w-1"))
    assert await store.journal.commit((RequestCancel(running.run.id, ANN.owner, "w-3", Instant(1)),)) == (Done(),)


async def test_nobody_cancels_another_owners_run(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    assert await store.journal.commit((RequestCancel(accepted.run.id, BOB.owner, WORKER, Instant(1)),)) == (Missing(),)
    assert await store.journal.commit((RequestCancel("run_none", ANN.owner, WORKER, Instant(1)),)) == (Missing(),)
    assert not (await run_of(store, accepted.run.id)).is_cancelling


async def test_who_cancels_a_queued_run_that_nobody_has_takes_it_to_end_it(store: Store) -> None:
    await accepted_by(store, accept("q", "s", background=True))
    accepted = await accepted_by(store, accept("q", "t", background=True))
    (told,) = await store.journal.commit((RequestCancel(accepted.run.id, ANN.owner, "w-1", Instant(1)),))
    assert isinstance(told, Cancelling)
    assert told.fence is not None
    assert told.worker == told.fence.worker == "w-1"
    taken = await taken_by(store)
    assert taken is not None
    assert taken.run.session_id == "s"
    assert await taken_by(store) is None
    assert await store.journal.commit((RequestCancel(accepted.run.id, ANN.owner, "w-2", Instant(1)),)) == (
        Cancelling("w-1"),
    )
    change = end(accepted, (), status="cancelled")
    assert await store.journal.commit((change,), told.fence) == (Ended(None),)
    assert (await run_of(store, accepted.run.id)).status == "cancelled"


async def test_a_cancelled_run_is_not_queued_again_when_its_canceller_dies(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s", background=True))
    await store.journal.commit((RequestCancel(accepted.run.id, ANN.owner, "w-1", Instant(1)),))
    ((run, held),) = await taken_over(store)
    assert (run.id, run.is_cancelling, run.status, held.worker) == (accepted.run.id, True, "queued", "heir")


# reading


async def test_the_runs_of_a_session_that_have_not_ended_are_read_oldest_first(store: Store) -> None:
    ended = await accepted_by(store, accept("q", "s"))
    await store.journal.commit((end(ended),), fence(ended))
    runs = [(await accepted_by(store, accept("q", "s", background=n == 1))).run for n in range(3)]
    await accepted_by(store, accept("q", "t"))
    assert await store.runs.open_in((await session_called(store, "s")).key) == runs
    assert await store.runs.open_in("none") == []


async def test_a_worker_reads_which_of_its_turns_have_come(store: Store) -> None:
    first = await accepted_by(store, accept("q1", "s", worker="w-1"))
    waits = accept("q2", "s", worker="w-2")
    second = await accepted_by(store, waits)
    await accepted_by(store, accept("q3", "s", worker="w-2"))
    assert await store.runs.ready("w-2") == []
    await store.journal.commit((end(first),), fence(first, worker="w-1"))
    assert await store.runs.ready("w-2") == [second.run.id]
    assert await store.runs.ready("w-1") == []
    await store.journal.commit((replace(begin(waits, second), worker="w-2"),))
    assert await store.runs.ready("w-2") == []


async def test_a_worker_reads_what_it_holds_oldest_first(store: Store) -> None:
    held = [await accepted_by(store, accept("q", f"s{n % 2}", worker="w-1")) for n in range(4)]
    await accepted_by(store, accept("q", "t", worker="w-2"))
    await store.journal.commit((end(held[0]),), fence(held[0], worker="w-1"))
    owned = await store.runs.owned("w-1")
    assert [(run, held) for run, held in owned] == [(one.run, fence(one, worker="w-1")) for one in held[1:]]


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_only_background_runs_that_nobody_has_are_queued_work(store: Store, is_waiting: bool) -> None:
    await accepted_by(store, accept("q", "s"))
    await accepted_by(store, accept("q", "s"))
    assert not await store.runs.has_queued()
    await accepted_by(store, accept("q", "s" if is_waiting else "t", background=True))
    assert await store.runs.has_queued()
