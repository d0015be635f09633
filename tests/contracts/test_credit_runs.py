"""What runs cost: set aside when they are accepted, settled when they end, over every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from innkeeper.core.administration import RemoveBalance, SetBalance
from innkeeper.core.changes import AppendEvents, DeleteSession, EndRun, RecordCredits, Segment
from innkeeper.core.credits import ORGANIZATION, ModelUsage, Terms, credits_of, nanos
from innkeeper.core.errors import InsufficientCredits
from innkeeper.core.outcomes import Accepted
from innkeeper.core.runs import RunStatus
from innkeeper.core.usage import CreditRecord, Pricing, Usage
from tests.support.turns import ANN, Store, accept, accepted_by, begin, end, fence, new_id, now, run_of

ONE = Pricing(credits_per_request=Decimal(1))
FLAT = Terms(ONE, Decimal(1), Decimal(1), (ORGANIZATION, "ann"))
UNPRICED = Terms(None, balances=(ORGANIZATION, "ann"))


async def give(store: Store, credits: str, user: str = "ann") -> None:
    change = SetBalance("acme", user, nanos(Decimal(credits)), new_id(), "test", "given", now())
    await store.journal.commit((change,))


async def left(store: Store, user: str = "ann") -> tuple[Decimal, Decimal]:
    """What is available, and what is set aside."""
    (balance,) = await store.credits.balances("acme", (user,))
    return credits_of(balance.available), credits_of(balance.reserved)


async def ledger_sum(store: Store, user: str = "ann") -> Decimal:
    entries, _ = await store.credits.entries("acme", user, limit=200)
    return credits_of(sum(entry.amount for entry in entries))


def tracked(credits: str) -> CreditRecord:
    return CreditRecord(new_id(), Decimal(credits), "test", {}, now())


def costing(accepted: Accepted, *credits: str, ceiling: Decimal | None = None) -> EndRun:
    return replace(end(accepted, "ok"), records=tuple(tracked(one) for one in credits), ceiling=ceiling)


async def test_what_a_run_may_cost_is_set_aside_and_what_it_did_not_cost_is_given_back(store: Store) -> None:
    await give(store, "10")
    terms = Terms(ONE, Decimal("4.5"), Decimal(1), (ORGANIZATION, "ann"))
    accepted = await accepted_by(store, accept(terms=terms))
    assert (accepted.run.pricing, accepted.run.reserved) == (ONE, nanos(Decimal("4.5")))
    assert accepted.run == await run_of(store, accepted.run.id)
    assert await left(store) == (Decimal("5.5"), Decimal("4.5"))
    await store.journal.commit((costing(accepted, "1.25"),), fence(accepted))
    assert await left(store) == (Decimal("8.75"), Decimal(0)) and await ledger_sum(store) == Decimal("8.75")


async def test_a_run_that_may_cost_more_than_is_left_is_refused_and_leaves_nothing(store: Store) -> None:
    await give(store, "0.999999999")
    change = accept("Hi", "s", terms=FLAT)
    with pytest.raises(InsufficientCredits, match=r"This run may cost up to 1 credits, and you have 0\.999999999 left"):
        await store.journal.commit((change,))
    assert await store.runs.find(ANN, change.run.id) is None and await store.sessions.find(ANN, "s") is None
    assert await left(store) == (Decimal("0.999999999"), Decimal(0))


async def test_the_organizations_balance_bounds_its_users_too(store: Store) -> None:
    await give(store, "10")
    await give(store, "1", ORGANIZATION)
    accepted = await accepted_by(store, accept(terms=FLAT))
    assert await left(store, ORGANIZATION) == (Decimal(0), Decimal(1))
    with pytest.raises(InsufficientCredits, match="and your organization has 0 left"):
        await store.journal.commit((accept(terms=FLAT),))
    await store.journal.commit((costing(accepted, "1"),), fence(accepted))
    assert await left(store) == (Decimal(9), Decimal(0)) and await left(store, ORGANIZATION) == (Decimal(0), Decimal(0))
    assert await ledger_sum(store) == 9 and await ledger_sum(store, ORGANIZATION) == 0


async def test_of_many_at_a_time_as_many_are_accepted_as_can_pay(store: Store) -> None:
    await give(store, "10")
    answers = await asyncio.gather(
        *(store.journal.commit((accept(terms=FLAT),)) for _ in range(40)), return_exceptions=True
    )
    accepted = [one[0] for one in answers if isinstance(one, tuple)]
    assert len(accepted) == 10 and sum(isinstance(one, InsufficientCredits) for one in answers) == 30
    assert await left(store) == (Decimal(0), Decimal(10))
    await asyncio.gather(*(store.journal.commit((costing(one, "1"),), fence(one)) for one in accepted))  # type: ignore[arg-type]
    assert await left(store) == (Decimal(0), Decimal(0)) and await ledger_sum(store) == 0


async def test_what_is_charged_never_exceeds_the_ceiling_nor_what_is_there(store: Store) -> None:
    await give(store, "10")
    accepted = await accepted_by(store, accept(terms=FLAT))
    await store.journal.commit((costing(accepted, "3", "4", ceiling=Decimal(5)),), fence(accepted))
    assert await left(store) == (Decimal(5), Decimal(0))
    accepted = await accepted_by(store, accept(terms=FLAT))
    await store.journal.commit((costing(accepted, "70"),), fence(accepted))
    assert await left(store) == (Decimal(0), Decimal(0)) and await ledger_sum(store) == 0


async def test_where_nothing_bounds_a_run_all_that_is_left_is_set_aside(store: Store) -> None:
    await give(store, "3")
    unbounded = Terms(Pricing(Decimal(1), Decimal("0.1")), None, Decimal("1.1"), (ORGANIZATION, "ann"))
    accepted = await accepted_by(store, accept(terms=unbounded))
    assert await left(store) == (Decimal(0), Decimal(3))
    with pytest.raises(InsufficientCredits, match=r"may cost up to 1\.1 credits"):
        await store.journal.commit((accept(terms=unbounded),))
    await store.journal.commit((costing(accepted, "1.2"),), fence(accepted))
    assert await left(store) == (Decimal("1.8"), Decimal(0))


async def test_an_agent_without_a_price_needs_that_anything_is_left_and_is_charged_what_it_tracks(store: Store) -> None:
    await give(store, "1")
    accepted = await accepted_by(store, accept(terms=UNPRICED))
    await store.journal.commit((costing(accepted, "2"),), fence(accepted))
    assert await left(store) == (Decimal(0), Decimal(0))
    with pytest.raises(InsufficientCredits, match="may cost some credits, and you have 0 left"):
        await store.journal.commit((accept(terms=UNPRICED),))


async def test_nobody_without_a_balance_is_charged(store: Store) -> None:
    accepted = await accepted_by(store, accept(terms=FLAT))
    assert accepted.run.reserved is None and accepted.run.pricing == ONE
    await give(store, "10")
    await store.journal.commit((costing(accepted, "1"),), fence(accepted))
    assert await left(store) == (Decimal(10), Decimal(0))
    assert [one.credits for one in await store.credits.records_of(accepted.run.id)] == [Decimal(1)]


async def test_what_was_tracked_before_the_end_is_charged_with_it_once(store: Store) -> None:
    await give(store, "10")
    accepted = await accepted_by(store, accept(terms=FLAT))
    noted = AppendEvents(Segment(2, 0, b""), now(), records=(tracked("2"),))
    await store.journal.commit((noted,), fence(accepted))
    await store.journal.commit((noted,), fence(accepted))
    assert len(await store.credits.records_of(accepted.run.id)) == 1
    await store.journal.commit((costing(accepted, "1"),), fence(accepted))
    assert await left(store) == (Decimal(7), Decimal(0)) and await ledger_sum(store) == 7


async def test_an_end_that_is_told_twice_is_charged_once(store: Store) -> None:
    await give(store, "10")
    accepted = await accepted_by(store, accept(terms=FLAT))
    change = costing(accepted, "1")
    for _ in range(2):
        await store.journal.commit((change,), fence(accepted))
    assert await left(store) == (Decimal(9), Decimal(0)) and await ledger_sum(store) == 9


async def test_what_is_tracked_after_the_end_takes_what_is_left(store: Store) -> None:
    await give(store, "2")
    accepted = await accepted_by(store, accept(terms=FLAT))
    await store.journal.commit((costing(accepted, "1"),), fence(accepted))
    for credits in ("0.25", "5"):
        await store.journal.commit((RecordCredits(accepted.run.id, (tracked(credits),)),))
    assert await left(store) == (Decimal(0), Decimal(0)) and await ledger_sum(store) == 0


async def test_a_run_in_the_queue_keeps_what_is_set_aside_until_it_has_ended(store: Store) -> None:
    await give(store, "2")
    first = await accepted_by(store, accept("one", "s", terms=FLAT))
    request = accept("two", "s", terms=FLAT)
    waiting = await accepted_by(store, request)
    assert waiting.run.status is RunStatus.QUEUED and waiting.run.reserved == nanos(Decimal(1))
    await store.journal.commit((costing(first, "1"),), fence(first))
    await store.journal.commit((begin(request, waiting),))
    assert await left(store) == (Decimal(0), Decimal(1))
    await store.journal.commit((costing(waiting),), fence(waiting, epoch=2))
    assert await left(store) == (Decimal(1), Decimal(0))


async def test_a_session_that_is_deleted_gives_back_what_was_set_aside_in_it(store: Store) -> None:
    await give(store, "2")
    accepted = await accepted_by(store, accept("Hi", "s", terms=FLAT))
    await store.journal.commit((DeleteSession(accepted.run.session_key),))
    assert await left(store) == (Decimal(2), Decimal(0))


async def test_a_balance_that_is_removed_or_set_under_a_run_is_never_charged_below_zero(store: Store) -> None:
    await give(store, "10")
    accepted = await accepted_by(store, accept(terms=FLAT))
    await store.journal.commit((RemoveBalance("acme", "ann", new_id(), "test", "", now()),))
    await give(store, "0.5")
    await store.journal.commit((costing(accepted, "1"),), fence(accepted))
    assert await left(store) == (Decimal(0), Decimal(0)) and await ledger_sum(store) == 0


async def test_tokens_are_kept_by_model_with_what_they_cost(store: Store) -> None:
    accepted = await accepted_by(store, accept())
    models = (ModelUsage(Usage(1, 2, "m"), 5), ModelUsage(Usage(3, 4, None)))
    await store.journal.commit((replace(end(accepted, "ok"), models=models),), fence(accepted))
    found, has_more = await store.credits.usage(ANN.owner, limit=10)
    assert sorted((one.model, one.input_tokens, one.output_tokens, one.cost) for one in found) == [
        ("", 3, 4, None),
        ("m", 1, 2, 5),
    ]
    assert not has_more


async def test_what_is_tracked_after_the_end_is_charged_up_to_the_ceiling(store: Store) -> None:
    await give(store, "10")
    pricing = Pricing(Decimal(1), max_credits=Decimal(3))
    accepted = await accepted_by(store, accept(terms=Terms(pricing, Decimal(1), Decimal(1), ("ann",))))
    await store.journal.commit((costing(accepted, "1", ceiling=Decimal(3)),), fence(accepted))
    for credits in (("0.5",), ("0.75", "5"), ("1",)):
        await store.journal.commit((RecordCredits(accepted.run.id, tuple(map(tracked, credits))),))
    assert await left(store) == (Decimal(7), Decimal(0)) and await ledger_sum(store) == 7
    assert len(await store.credits.records_of(accepted.run.id)) == 5, "what it has cost is told all the same"


async def test_of_runs_that_cost_what_they_track_each_sets_aside_its_ceiling_as_far_as_anything_is_left(
    store: Store,
) -> None:
    await give(store, "7")
    terms = Terms(Pricing(max_credits=Decimal(5)), None, Decimal(0), ("ann",))
    first = await accepted_by(store, accept(terms=terms))
    assert await left(store) == (Decimal(2), Decimal(5))
    second = await accepted_by(store, accept(terms=terms))
    assert await left(store) == (Decimal(0), Decimal(7))
    with pytest.raises(InsufficientCredits, match="may cost some credits, and you have 0 left"):
        await store.journal.commit((accept(terms=terms),))
    for accepted in (first, second):
        await store.journal.commit((costing(accepted, "1", ceiling=Decimal(5)),), fence(accepted))
    assert await left(store) == (Decimal(5), Decimal(0)) and await ledger_sum(store) == 5
