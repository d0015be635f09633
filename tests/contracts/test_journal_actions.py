"""Runs that wait for people, in the journal: paused by their owner, answered once, taken up or over by anybody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from innkeeper.core.action_changes import Expired, Paused, PauseRun, Resumed, ResumeRun, TakeExpired, Waits
from innkeeper.core.actions import Action, ActionStatus, Answer
from innkeeper.core.changes import Fence, RequestCancel, Segment
from innkeeper.core.errors import ActionNotFound, Invalid, RunConflict
from innkeeper.core.events import ActionRequired, payload
from innkeeper.core.outcomes import Accepted, Cancelling, Missing, Outcome, Stale
from innkeeper.core.runs import Parameters, Plan, RunStatus
from innkeeper.core.times import Instant
from tests.support.turns import (
    ANN,
    BOB,
    WORKER,
    Store,
    accept,
    accepted_by,
    end,
    fence,
    log_of,
    now,
    run_of,
    taken_over,
)

HOUR = 3_600_000_000
ACTIONS = (Action("one", "approval", "delete", '{"name": "a\\u0000b"}'), Action("two", "input", "number"))


def pause(accepted: Accepted, *actions: Action, last_seq: int = 1) -> PauseRun:
    run, moment = accepted.run, now()
    data = payload(ActionRequired(run.id, actions, "2026-01-01T00:00:00Z"))
    return PauseRun(
        run_id=run.id,
        session_key=run.session_key,
        segment=Segment(last_seq + 1, 1, data),
        now=moment,
        expires_at=Instant(moment + HOUR),
        actions=actions,
        state="a state with a \x00",
        plan=Plan(Parameters(temperature=0.5)),
    )


async def paused_by(store: Store, session_id: str = "s", *actions: Action) -> Accepted:
    accepted = await accepted_by(store, accept("q", session_id))
    assert await store.journal.commit((pause(accepted, *(actions or ACTIONS)),), fence(accepted)) == (Paused(),)
    return accepted


def approve(accepted: Accepted, *ids: str, worker: str = "w-2") -> ResumeRun:
    answers = tuple(Answer(one, "answer", value="1") if one == "two" else Answer(one, "approve") for one in ids)
    return ResumeRun(accepted.run.id, ANN.owner, answers, "ann", worker, now())


async def told_by(store: Store, change: ResumeRun) -> Outcome:
    (outcome,) = await store.journal.commit((change,))
    return outcome


async def test_a_paused_run_is_nobodys_and_whoever_executed_it_writes_nothing_more(store: Store) -> None:
    accepted = await paused_by(store)
    assert (await run_of(store, accepted.run.id)).status is RunStatus.REQUIRES_ACTION
    assert await store.journal.commit((end(accepted, "late"),), fence(accepted)) == (Stale(),)
    assert await store.journal.commit((pause(accepted, *ACTIONS),), fence(accepted)) == (Stale(),)
    assert await taken_over(store) == (), "nor does anybody take it for one of the dead"
    assert [one.action for one in await store.actions.of_run(accepted.run.id)] == list(ACTIONS)


async def test_only_who_owns_a_run_pauses_it(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    stranger = replace(fence(accepted), epoch=7)
    assert await store.journal.commit((pause(accepted, *ACTIONS),), stranger) == (Stale(),)
    assert (await run_of(store, accepted.run.id)).status is RunStatus.RUNNING
    assert await store.actions.of_run(accepted.run.id) == []


async def test_answers_are_kept_and_the_last_one_hands_the_run_to_who_was_asked(store: Store) -> None:
    accepted = await paused_by(store)
    waits = await told_by(store, approve(accepted, "two"))
    assert isinstance(waits, Waits) and waits.left == 1
    resumed = await told_by(store, approve(accepted, "one"))
    assert isinstance(resumed, Resumed)
    assert (resumed.run.status, resumed.plan.parameters.temperature) == (RunStatus.RUNNING, 0.5)
    assert resumed.fence == Fence(accepted.run.id, "w-2", 2)
    assert resumed.continuation.state == "a state with a \x00"
    assert resumed.continuation.answers == (Answer("one", "approve"), Answer("two", "answer", value="1"))
    assert (await log_of(store, accepted.run.id))[-1] == resumed.segment.data
    assert [run.id for run, _ in await taken_over(store)] == [accepted.run.id], "it is somebody's again"


async def test_a_run_may_be_paused_again_and_then_waits_for_the_new_actions_alone(store: Store) -> None:
    accepted = await paused_by(store, "s", ACTIONS[0])
    resumed = await told_by(store, approve(accepted, "one"))
    assert isinstance(resumed, Resumed)
    again = pause(accepted, Action("three", "approval", "delete"), last_seq=resumed.segment.last_seq)
    assert await store.journal.commit((again,), resumed.fence) == (Paused(),)
    with pytest.raises(ActionNotFound):
        await told_by(store, approve(accepted, "one"))
    last = await told_by(store, approve(accepted, "three"))
    assert isinstance(last, Resumed) and last.continuation.answers == (Answer("three", "approve"),)


async def test_what_is_no_answer_changes_nothing(store: Store) -> None:
    accepted = await paused_by(store)
    change = approve(accepted, "one")
    for refused, error in (
        (replace(change, answers=(Answer("one", "approve"), Answer("none", "approve"))), ActionNotFound),
        (replace(change, answers=(Answer("one", "approve"),) * 2), Invalid),
        (replace(change, answers=(Answer("one", "approve"), Answer("two", "approve"))), Invalid),
        (replace(change, now=Instant(now() + 2 * HOUR)), RunConflict),
    ):
        with pytest.raises(error):
            await told_by(store, refused)
    assert {one.status for one in await store.actions.of_run(accepted.run.id)} == {ActionStatus.PENDING}
    await told_by(store, change)
    with pytest.raises(RunConflict, match="decided already"):
        await told_by(store, change)


async def test_another_owners_run_is_missing(store: Store) -> None:
    accepted = await paused_by(store)
    assert await told_by(store, replace(approve(accepted, "one"), owner=BOB.owner)) == Missing()
    assert (await store.actions.page(BOB, limit=10)) == ([], False)


async def test_who_cancels_a_paused_run_has_it_and_nobody_can_answer_any_more(store: Store) -> None:
    accepted = await paused_by(store)
    (told,) = await store.journal.commit((RequestCancel(accepted.run.id, ANN.owner, "w-3", now()),))
    assert told == Cancelling("w-3", Fence(accepted.run.id, "w-3", 2))
    assert {one.status for one in await store.actions.of_run(accepted.run.id)} == {ActionStatus.CANCELLED}
    with pytest.raises(RunConflict):
        await told_by(store, approve(accepted, "one"))


async def test_a_paused_run_that_is_being_cancelled_waits_for_nothing_not_even_for_no_answer(store: Store) -> None:
    accepted = await paused_by(store)
    await store.journal.commit((RequestCancel(accepted.run.id, ANN.owner, "w-3", now()),))
    for ids in ((), ("one",)):
        with pytest.raises(RunConflict, match="cancelled"):
            await told_by(store, approve(accepted, *ids))


async def test_who_cancels_a_paused_run_and_dies_leaves_it_to_be_taken_over(store: Store) -> None:
    accepted = await paused_by(store)
    await store.journal.commit((RequestCancel(accepted.run.id, ANN.owner, "dead", now()),))
    ((run, _),) = await taken_over(store)
    assert (run.id, run.is_cancelling) == (accepted.run.id, True)


async def test_a_run_whose_end_was_asked_for_says_so_when_it_is_paused(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    await store.journal.commit((RequestCancel(accepted.run.id, ANN.owner, "w-3", now()),))
    assert await store.journal.commit((pause(accepted, *ACTIONS),), fence(accepted)) == (Paused(is_cancelling=True),)


async def test_what_nobody_answered_in_time_is_taken_over_once(store: Store) -> None:
    first, second = await paused_by(store, "a"), await paused_by(store, "b")
    await told_by(store, approve(second, "two"))
    assert await store.journal.commit((TakeExpired(WORKER, now()),)) == (Expired(),)
    later = Instant(now() + 2 * HOUR)
    (told,) = await store.journal.commit((TakeExpired(WORKER, later),))
    assert isinstance(told, Expired)
    assert {run.id for run, _ in told.runs} == {first.run.id, second.run.id}
    assert {taken for _, taken in told.runs} == {Fence(one.run.id, WORKER, 2) for one in (first, second)}
    assert await store.journal.commit((TakeExpired(WORKER, later),)) == (Expired(),)
    assert [one.status for one in await store.actions.of_run(second.run.id)] == ["expired", "answered"]
    assert (await run_of(store, first.run.id)).is_cancelling, "whoever takes it over from the dead only ends it"
