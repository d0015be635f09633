"""Claims where time, refusals and calls of several changes come in; `test_claims` has what holds for each change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from innkeeper.core.changes import AcceptRun, ForgetClaims, KeepClaim
from innkeeper.core.claims import LIFETIME, Claim, Claimed
from innkeeper.core.errors import RunConflict
from innkeeper.core.outcomes import Done, Repeated, Steered
from innkeeper.core.times import Instant
from tests.support.turns import (
    ANN,
    Store,
    accept,
    accepted_by,
    create,
    now,
    session_called,
)

CLAIM = Claim("key", "digest")
OTHER = Claim("key", "another digest")


def _claimed(change: AcceptRun, subject: str | None = None, answer: bytes | None = None) -> Repeated:
    return Repeated(Claimed("key", "digest", subject or change.run.id, change.run.created_at, answer))


async def test_a_key_may_be_used_anew_when_its_time_is_over(store: Store) -> None:
    first = accept("q", "s", claim=CLAIM)
    old = replace(first, run=replace(first.run, created_at=Instant(first.run.created_at - LIFETIME)))
    await accepted_by(store, old)
    fresh = accept("q2", claim=OTHER)
    await accepted_by(store, fresh)
    assert (await store.journal.commit((accept("q2", claim=OTHER),)))[0] == Repeated(
        Claimed("key", "another digest", fresh.run.id, fresh.run.created_at)
    )


async def test_a_turn_that_is_refused_leaves_its_key_free(store: Store) -> None:
    await accepted_by(store, accept("q", "s"))
    with pytest.raises(RunConflict):
        await accepted_by(store, accept("q2", "s", when_busy="reject", claim=CLAIM))
    assert (await accepted_by(store, accept("q2", "t", claim=CLAIM))).is_new_session


async def test_a_steering_request_again_names_the_run_it_went_into_and_injects_nothing(store: Store) -> None:
    running = await accepted_by(store, accept("q", "s"))
    change = accept("more", "s", when_busy="steer", claim=CLAIM)
    (first,) = await store.journal.commit((change,))
    assert isinstance(first, Steered)
    (again,) = await store.journal.commit((accept("more", "s", when_busy="steer", claim=CLAIM),))
    assert again == _claimed(change, running.run.id, first.injection_id.encode())


async def test_a_claim_that_comes_first_in_its_call_keeps_the_rest_from_being_done_again(store: Store) -> None:
    made = create("s")
    kept = KeepClaim(ANN.owner, CLAIM, made.session.key, now(), b"answer")
    assert await store.journal.commit((kept, made)) == (Done(), Done(made.session))
    again = create("s")
    repeated = Repeated(Claimed("key", "digest", made.session.key, kept.now, b"answer"))
    call = (KeepClaim(ANN.owner, CLAIM, again.session.key, now()), again)
    assert await store.journal.commit(call) == (repeated, repeated)
    assert (await session_called(store, "s")).key == made.session.key


async def test_keys_are_forgotten_when_their_time_is_over(store: Store) -> None:
    instant = now()
    for age, key in ((LIFETIME, "old"), (LIFETIME - 1, "young")):
        claim = Claim(key, "digest")
        await store.journal.commit((KeepClaim(ANN.owner, claim, "x", Instant(instant - age)),))
    assert await store.journal.commit((ForgetClaims(instant),)) == (Done(),)
    early = Instant(instant - LIFETIME + 1)  # a moment at which neither would have been too old
    outcomes = [
        (await store.journal.commit((KeepClaim(ANN.owner, Claim(key, "digest"), "y", early),)))[0]
        for key in ("old", "young")
    ]
    assert [type(outcome) for outcome in outcomes] == [Done, Repeated]
