"""Runs that follow others, and runs that are deleted, over every store."""

from __future__ import annotations

import pytest

from innkeeper.core.changes import DeleteRun, DeleteSession, TakeQueued
from innkeeper.core.errors import PreviousRunNotFound, RunConflict
from innkeeper.core.outcomes import Accepted, Done, Missing, Taken
from innkeeper.core.runs import Plan, RunStatus
from tests.support.turns import (
    ANN,
    BOB,
    WORKER,
    Store,
    accept,
    accepted_by,
    began_by,
    end,
    fence,
    given,
    now,
    session_called,
    take_turn,
    user,
)


def after(run_id: str) -> Plan:
    return Plan(history="extend", follows=run_id)


async def turn(store: Store, question: str, answer: str, follows: str | None = None) -> Accepted:
    """A whole turn, of a session of its own unless it follows another."""
    change = accept(question, "s" if follows is None else None, plan=None if follows is None else after(follows))
    accepted = await accepted_by(store, change)
    await store.journal.commit((end(accepted, answer),), fence(accepted))
    return accepted


async def heard(store: Store, accepted: Accepted) -> list[str]:
    """The conversation that the run's agent was given."""
    assert accepted.lineage is not None
    return [message.text for message in await given(store, accepted.lineage)]


async def test_a_run_goes_on_after_the_one_that_it_follows_at_the_head_and_in_branches(store: Store) -> None:
    first = await turn(store, "q1", "a1")
    second = await turn(store, "q2", "a2", first.run.id)
    assert await heard(store, second) == ["q1", "a1", "q2"]
    branch = await turn(store, "b2", "c2", first.run.id)
    assert await heard(store, branch) == ["q1", "a1", "b2"]
    third = await turn(store, "q3", "a3", second.run.id)
    assert await heard(store, third) == ["q1", "a1", "q2", "a2", "q3"]
    assert {run.run.session_id for run in (first, second, branch, third)} == {"s"}
    until = await store.sessions.until(ANN, branch.run.id)
    assert until is not None and [message.text for message in until] == ["q1", "a1", "b2", "c2"]


async def test_one_that_waits_its_turn_goes_on_after_what_is_said_by_then(store: Store) -> None:
    first = await accepted_by(store, accept("q1", "s"))
    change = accept("q2", plan=after(first.run.id))
    queued = await accepted_by(store, change)
    assert queued.run.status is RunStatus.QUEUED
    await accepted_by(store, accept("q3", plan=after(first.run.id), background=True))
    await store.journal.commit((end(first, "a1"),), fence(first))
    begun = await began_by(store, change, queued)
    assert await heard(store, begun) == ["q1", "a1", "q2"]
    await store.journal.commit((end(begun, "a2"),), fence(begun))
    (taken,) = await store.journal.commit((TakeQueued(WORKER, now()),))
    assert isinstance(taken, Taken)
    assert [message.text for message in await given(store, taken.begun.lineage)] == ["q1", "a1", "q3"]


async def test_what_cannot_be_followed_does_not_exist(store: Store) -> None:
    kept = await turn(store, "q1", "a1")
    foreign = await accepted_by(store, accept("q", "s", caller=BOB))
    unrecorded = await accepted_by(store, accept("q", recorded=False))
    for named in ("run_none", "", foreign.run.id, unrecorded.run.id):
        with pytest.raises(PreviousRunNotFound):
            await store.journal.commit((accept("x", plan=after(named)),))
        assert await store.sessions.until(ANN, named) is None
    with pytest.raises(PreviousRunNotFound):
        await store.journal.commit((accept("x", plan=after(kept.run.id), user_id="somebody"),))
    await store.journal.commit((DeleteSession(kept.run.session_key),))
    with pytest.raises(PreviousRunNotFound):
        await store.journal.commit((accept("x", plan=after(kept.run.id)),))


async def test_a_deleted_run_has_no_contents_and_its_turn_stays_in_the_conversation(store: Store) -> None:
    ended = await turn(store, "q1", "a1")
    going = await accepted_by(store, accept("q2", "s"))
    with pytest.raises(RunConflict):
        await store.journal.commit((DeleteRun(going.run.id, ANN.owner),))
    assert await store.journal.commit((DeleteRun(ended.run.id, BOB.owner),)) == (Missing(),)
    assert await store.journal.commit((DeleteRun(ended.run.id, ANN.owner),)) == (Done(),)
    assert await store.journal.commit((DeleteRun(ended.run.id, ANN.owner),)) == (Missing(),)
    run = await store.runs.find(ANN, ended.run.id)
    assert run is not None and (run.input, run.output, run.request) == ((), None, None)
    assert await store.runs.segments(ended.run.id, 0) == []
    stored = await store.sessions.messages(await session_called(store, "s"))
    assert [one.message.text for one in stored] == ["q1", "a1", "q2"]
    with pytest.raises(PreviousRunNotFound):
        await store.journal.commit((accept("x", plan=after(ended.run.id)),))


async def test_messages_are_paged_backwards_from_any_position(store: Store) -> None:
    for number in (1, 2, 3):
        await take_turn(store, f"q{number}", "s", f"a{number}")
    await take_turn(store, [user("q1"), user("b2")], "s", "c2", history="replace")
    session = await session_called(store, "s")
    positions = [one.position for one in await store.sessions.messages(session)]
    for limit in (1, 2, 5):
        seen: list[int] = []
        while page := await store.sessions.messages(session, limit=limit, before=seen[0] if seen else None):
            seen = [one.position for one in page] + seen
        assert seen == positions
