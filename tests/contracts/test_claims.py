"""Idempotency keys, whatever their requests make: a run, a session, messages or an injection. Over every store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from innkeeper.core.changes import AcceptInjection, AppendMessages, Change, KeepClaim
from innkeeper.core.claims import Claim
from innkeeper.core.errors import IdempotencyMismatch, RunConflict
from innkeeper.core.identity import Caller
from innkeeper.core.outcomes import Accepted, Appended, Done, Injected, Outcome, Repeated
from tests.support.turns import (
    ANN,
    BOB,
    Store,
    accept,
    create,
    new_id,
    now,
    session_called,
    spoken,
    take_turn,
    user,
)

KEY = Claim("key", "the request")
Making = Callable[[Claim | None, Caller], list[Change]]


def a_run(claim: Claim | None, caller: Caller) -> list[Change]:
    return [replace(accept("Hi", caller=caller), claim=claim)]


def a_session(claim: Claim | None, caller: Caller) -> list[Change]:
    made = create(caller=caller)
    keeping = [] if claim is None else [KeepClaim(caller.owner, claim, made.session.key, made.session.created_at)]
    return [*keeping, made]


def an_injection(claim: Claim | None, caller: Caller) -> list[Change]:
    return [AcceptInjection(f"inj_{new_id()}", caller.owner, "Hush", "echo", now(), claim=claim)]


MAKINGS: dict[str, Making] = {"run": a_run, "session": a_session, "injection": an_injection}


@pytest.fixture(params=MAKINGS)
def making(request: pytest.FixtureRequest) -> Making:
    """The changes of a request that makes something new, each time with ids of its own."""
    return MAKINGS[request.param]


def subject_of(changes: list[Change], outcomes: tuple[Outcome, ...]) -> str:
    """The id of what was made first."""
    match changes[0], outcomes[0]:
        case _, Accepted(run=run):
            return run.id
        case _, Injected(injection=injection):
            return injection.id
        case KeepClaim(subject=subject), Done():
            return subject
        case _, Repeated(claimed=claimed):
            return claimed.subject
    raise AssertionError(outcomes)


async def test_the_same_request_again_is_told_what_it_had_made_and_makes_nothing(store: Store, making: Making) -> None:
    first, again = making(KEY, ANN), making(KEY, ANN)
    made = subject_of(first, await store.journal.commit(first))
    outcomes = await store.journal.commit(again)
    assert all(isinstance(outcome, Repeated) for outcome in outcomes)
    assert subject_of(again, outcomes) == made
    page, _ = await store.sessions.page(ANN, limit=10)
    assert len(page) == (making is not an_injection), "the second one made no session"


async def test_another_request_with_the_same_key_is_refused_and_makes_nothing(store: Store, making: Making) -> None:
    await store.journal.commit(making(KEY, ANN))
    for other in MAKINGS.values():
        with pytest.raises(IdempotencyMismatch) as refused:
            await store.journal.commit(other(Claim("key", "another request"), ANN))
        assert refused.value.param == "Idempotency-Key"
    page, _ = await store.sessions.page(ANN, limit=10)
    assert len(page) == (making is not an_injection)


async def test_the_same_key_of_another_owner_is_its_own(store: Store, making: Making) -> None:
    anns, bobs = making(KEY, ANN), making(Claim("key", "another request"), BOB)
    first = subject_of(anns, await store.journal.commit(anns))
    second = subject_of(bobs, await store.journal.commit(bobs))
    assert first != second
    for caller, made, claim in ((ANN, first, KEY), (BOB, second, Claim("key", "another request"))):
        again = making(claim, caller)
        assert subject_of(again, await store.journal.commit(again)) == made


async def test_many_at_one_moment_make_one(store: Store, making: Making) -> None:
    requests = [making(KEY, ANN) for _ in range(32)]
    answers = await asyncio.gather(*(store.journal.commit(request) for request in requests))
    assert len({subject_of(request, answer) for request, answer in zip(requests, answers, strict=True)}) == 1
    assert sum(not isinstance(answer[0], Repeated) for answer in answers) == 1


async def test_messages_that_are_appended_again_are_found_where_they_are(store: Store) -> None:
    await take_turn(store, "Hi", "s")
    session = await session_called(store, "s")
    change = AppendMessages(session.key, (user("One"), user("Two")), now(), KEY)
    answers = await asyncio.gather(*(store.journal.commit((replace(change, now=now()),)) for _ in range(8)))
    outcomes = [outcome for (outcome,) in answers]
    (first,) = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
    repeated = [outcome.claimed for outcome in outcomes if isinstance(outcome, Repeated)]
    assert len(repeated) == 7
    for claimed in repeated:
        assert claimed.answer == b"%d" % first.messages[0].position == b"3"
        assert claimed.created_at == first.messages[0].created_at
    assert await spoken(store, "s") == ["Hi", "Hello", "One", "Two"]


async def test_a_session_that_exists_leaves_the_key_of_its_second_maker_free(store: Store) -> None:
    await store.journal.commit((create("s"),))
    second = create("s")
    keeping = KeepClaim(ANN.owner, KEY, second.session.key, now())
    neighbours = [store.journal.commit((create(f"n{number}"),)) for number in range(3)]
    with pytest.raises(RunConflict):
        await store.journal.commit((keeping, second))
    await asyncio.gather(*neighbours)
    assert isinstance((await store.journal.commit((keeping, create("t"))))[0], Done)
