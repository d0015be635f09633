"""Claims in the journal: a key is written with what its request makes, so that it is made once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from innkeeper.core.changes import (
    Accepted,
    AcceptInjection,
    AcceptRun,
    Done,
    ForgetClaims,
    Injected,
    KeepClaim,
    Repeated,
    Steered,
)
from innkeeper.core.claims import LIFETIME, Claim, Claimed
from innkeeper.core.errors import IdempotencyMismatch, RunConflict
from innkeeper.core.times import Instant
from tests.support.turns import (
    ANN,
    BOB,
    Store,
    accept,
    accepted_by,
    create,
    inject,
    injected_by,
    now,
    receipt_of,
    session_called,
    spoken,
)

CLAIM = Claim("key", "digest")
OTHER = Claim("key", "another digest")


def _claimed(change: AcceptRun, subject: str | None = None, answer: bytes | None = None) -> Repeated:
    return Repeated(Claimed("key", "digest", subject or change.run.id, change.run.created_at, answer))


async def test_the_same_request_again_writes_nothing_and_names_the_run_of_the_first(store: Store) -> None:
    first = accept("q", "s", claim=CLAIM)
    await accepted_by(store, first)
    again = await store.journal.commit((accept("q", "s", claim=CLAIM),))
    assert again == (_claimed(first),)
    assert [run.id for run in (await store.runs.page(ANN, limit=9))[0]] == [first.run.id]
    assert await spoken(store, "s") == ["q"]


async def test_a_key_with_another_request_is_a_mismatch_and_writes_nothing(store: Store) -> None:
    await accepted_by(store, accept("q", "s", claim=CLAIM))
    for change in (accept("other", "s", claim=OTHER), inject("other", claim=OTHER)):
        with pytest.raises(IdempotencyMismatch) as refused:
            await store.journal.commit((change,))
        assert refused.value.param == "Idempotency-Key"
    assert len((await store.runs.page(ANN, limit=9))[0]) == 1


async def test_a_key_is_its_owners_own(store: Store) -> None:
    await accepted_by(store, accept("q", "s", claim=CLAIM))
    assert isinstance(await accepted_by(store, accept("q", "s", caller=BOB, claim=OTHER)), Accepted)


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


async def test_an_injection_again_is_stored_once(store: Store) -> None:
    await accepted_by(store, accept("q", "s"))
    change = inject("x", claim=CLAIM)
    first = await injected_by(store, change)
    again = await store.journal.commit((inject("x", claim=CLAIM),))
    assert again == (Repeated(Claimed("key", "digest", change.id, change.now)),)
    assert await receipt_of(store, first.id) == first


async def test_a_claim_that_comes_first_in_its_call_keeps_the_rest_from_being_done_again(store: Store) -> None:
    made = create("s")
    kept = KeepClaim(ANN.owner, CLAIM, made.session.key, now(), b"answer")
    assert await store.journal.commit((kept, made)) == (Done(), Done(made.session))
    again = create("s")
    repeated = Repeated(Claimed("key", "digest", made.session.key, kept.now, b"answer"))
    call = (KeepClaim(ANN.owner, CLAIM, again.session.key, now()), again)
    assert await store.journal.commit(call) == (repeated, repeated)
    assert (await session_called(store, "s")).key == made.session.key


async def test_a_call_that_fails_leaves_its_key_free(store: Store) -> None:
    await store.journal.commit((create("s"),))
    with pytest.raises(RunConflict):
        await store.journal.commit((KeepClaim(ANN.owner, CLAIM, "x", now()), create("s")))
    assert (await store.journal.commit((KeepClaim(ANN.owner, OTHER, "x", now()), create("t"))))[0] == Done()


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


async def test_many_requests_with_one_key_make_one_thing(store: Store) -> None:
    def attempts(key: str) -> list[AcceptRun | AcceptInjection]:
        claim = Claim(key, "digest")
        if key.startswith("inject"):
            return [inject(key, claim=claim) for _ in range(16)]
        return [accept(key, "s" if key == "named" else None, claim=claim, max_queue=99) for _ in range(16)]

    for key in ("named", "unnamed", "inject"):
        calls = [store.journal.commit((change,)) for change in attempts(key)]
        outcomes = [outcome for (outcome,) in await asyncio.gather(*calls)]
        made = [outcome for outcome in outcomes if isinstance(outcome, Accepted | Injected)]
        told = {outcome.claimed.subject for outcome in outcomes if isinstance(outcome, Repeated)}
        assert len(made) == 1
        assert told == {made[0].run.id if isinstance(made[0], Accepted) else made[0].injection.id}
