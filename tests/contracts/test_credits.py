"""Balances in every store: set, added to and removed by operators, each movement an entry; and what runs consumed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest
from uuid_utils import uuid7

from innkeeper.core.administration import AddCredits, Balanced, RateUsage, RemoveBalance, SetBalance
from innkeeper.core.claims import Claim
from innkeeper.core.credits import MAX_CREDITS, NANOS, ORGANIZATION, BalanceEntry, ModelTotal, ModelUsage, nanos
from innkeeper.core.errors import IdempotencyMismatch, Invalid
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.outcomes import Done, Missing, Repeated
from innkeeper.core.times import Instant
from innkeeper.core.usage import CreditRecord, Usage
from innkeeper.storage.programs.proofs import proof
from tests.support.turns import ANN, BOB, Store, accept, accepted_by, end, fence, new_id, now

ADMIN = Owner("acme", "root")


def setting(amount: int, user: str = "ann", organization: str = "acme") -> SetBalance:
    return SetBalance(organization, user, amount, new_id(), "root", "because", now())


def adding(amount: int, user: str = "ann", claim: Claim | None = None) -> AddCredits:
    return AddCredits("acme", user, amount, new_id(), "root", "paid", now(), ADMIN, claim)


def removing(user: str = "ann") -> RemoveBalance:
    return RemoveBalance("acme", user, new_id(), "root", "", now())


async def entries_of(store: Store, user: str = "ann") -> list[BalanceEntry]:
    """Newest first."""
    found: list[BalanceEntry] = []
    has_more = True
    while has_more:
        after = found[-1].id if found else None
        page, has_more = await store.credits.entries("acme", user, limit=20, after=after)
        found += page
    return found


async def total_of(store: Store, user: str = "ann") -> int:
    """What is there, which the entries sum up to."""
    balances = await store.credits.balances("acme", (user,))
    total = sum(one.total for one in balances)
    assert total == sum(entry.amount for entry in await entries_of(store, user))
    return total


async def test_a_balance_that_is_set_is_told_and_found_and_has_its_entry(store: Store) -> None:
    assert not await store.credits.has_any()
    change = setting(5 * NANOS)
    (outcome,) = await store.journal.commit((change,))
    assert isinstance(outcome, Balanced)
    assert await store.credits.balances("acme", ("ann", "bob", ORGANIZATION)) == [outcome.balance]
    assert (outcome.balance.available, outcome.balance.reserved) == (5 * NANOS, 0)
    assert outcome.balance.updated_at == change.now
    (entry,) = await entries_of(store)
    assert entry == BalanceEntry(
        change.entry_id, "acme", "ann", "set", 5 * NANOS, 5 * NANOS, None, "root", "because", change.now
    )
    assert await store.credits.entry("acme", "ann", change.entry_id) == entry
    assert await store.credits.entry("acme", "bob", change.entry_id) is None
    assert await store.credits.has_any()


async def test_each_movement_tells_what_it_changed_and_what_it_left(store: Store) -> None:
    for change in (setting(10), adding(5), setting(3), removing(), adding(7), removing()):
        await store.journal.commit((change,))
    told = [(one.kind, one.amount, one.balance) for one in reversed(await entries_of(store))]
    assert told == [
        ("set", 10, 10),
        ("add", 5, 15),
        ("set", -12, 3),
        ("remove", -3, 0),
        ("add", 7, 7),
        ("remove", -7, 0),
    ]
    assert await store.credits.balances("acme", ("ann",)) == []


async def test_a_balance_is_that_of_one_user_of_one_organization_and_of_nobody_else(store: Store) -> None:
    await store.journal.commit((setting(1), setting(2, "bob"), setting(4, ORGANIZATION), setting(8, "ann", "umbrella")))
    await store.journal.commit((removing("bob"), adding(16)))
    found, has_more = await store.credits.page(limit=10)
    assert [(one.organization, one.user, one.available) for one in found] == [
        ("acme", "", 4),
        ("acme", "ann", 17),
        ("umbrella", "ann", 8),
    ]
    assert not has_more


async def test_balances_are_listed_in_pages(store: Store) -> None:
    names = [f"user-{number}" for number in range(5)]
    await store.journal.commit(tuple(setting(1, name) for name in reversed(names)))
    first, has_more = await store.credits.page(limit=3)
    assert ([one.user for one in first], has_more) == (names[:3], True)
    rest, has_more = await store.credits.page(limit=3, after=("acme", first[-1].user))
    assert ([one.user for one in rest], has_more) == (names[3:], False)


async def test_removing_what_there_is_not_says_so_and_leaves_no_entry(store: Store) -> None:
    assert await store.journal.commit((removing(),)) == (Missing(),)
    assert await entries_of(store) == []


async def test_fifty_at_once_add_to_a_balance_that_nobody_had_made(store: Store) -> None:
    outcomes = await asyncio.gather(*(store.journal.commit((adding(number),)) for number in range(1, 51)))
    assert all(isinstance(outcome, Balanced) for (outcome,) in outcomes)
    assert await total_of(store) == sum(range(1, 51))
    balances = [one.balance for one in await entries_of(store)]
    assert len(set(balances)) == 50, "each saw what the one before had left"


async def test_setting_adding_and_removing_at_once_leave_entries_that_sum_up(store: Store) -> None:
    changes = [change for number in range(10) for change in (setting(number), adding(100), removing())]
    await asyncio.gather(*(store.journal.commit((change,)) for change in changes))
    await total_of(store)


async def test_credits_with_a_claim_are_added_once(store: Store) -> None:
    claim = Claim("key", "this request")
    changes = [adding(5, claim=claim) for _ in range(10)]
    outcomes = [one for (one,) in await asyncio.gather(*(store.journal.commit((change,)) for change in changes))]
    assert sum(isinstance(one, Balanced) for one in outcomes) == 1
    subjects = {one.claimed.subject for one in outcomes if isinstance(one, Repeated)}
    assert [one.id for one in await entries_of(store)] == list(subjects)
    assert await total_of(store) == 5
    with pytest.raises(IdempotencyMismatch):
        await store.journal.commit((adding(5, claim=Claim("key", "another request")),))
    assert await total_of(store) == 5


async def test_a_balance_may_be_the_largest_amount_and_not_a_billionth_more(store: Store) -> None:
    most = nanos(MAX_CREDITS)
    await store.journal.commit((setting(most),))
    with pytest.raises(Invalid, match="credits: a balance may be 1000000000 at most"):
        await store.journal.commit((adding(1),))
    assert await total_of(store) == most


@pytest.mark.parametrize("change", [setting(1), adding(1), removing()])
def test_the_proof_of_a_change_is_its_own_entry(change: SetBalance | AddCredits | RemoveBalance) -> None:
    query = proof((change,), (Done(),))
    assert query is not None
    assert query.values == {"by_organization": "acme", "by_owner": "ann", "by_id": change.entry_id}


# what runs consumed


async def ended(
    store: Store, *models: ModelUsage, caller: Caller = ANN, at: int | None = None, tracked: tuple[str, ...] = ()
) -> str:
    """The id of a run that consumed this; accepted `at`, in milliseconds since the epoch."""
    request = accept(caller=caller)
    run_id = uuid7() if at is None else UUID(int=at << 80 | uuid7().int & (1 << 80) - 1)
    accepted = await accepted_by(store, replace(request, run=replace(request.run, id=f"run_{run_id.hex}")))
    records = tuple(CreditRecord(uuid7().hex, Decimal(one), "a tool", {"n": 1}, now()) for one in tracked)
    await store.journal.commit((replace(end(accepted), models=models, records=records),), fence(accepted))
    return accepted.run.id


def used(model: str, tokens: int, cost: int | None = None) -> ModelUsage:
    return ModelUsage(Usage(tokens, tokens * 2, model), cost)


async def test_usage_is_listed_newest_run_first_in_pages_of_whole_runs(store: Store) -> None:
    first = await ended(store, used("a", 1), used("b", 2), used("c", 3))
    second = await ended(store, used("a", 4))
    others = await ended(store, used("a", 5), caller=BOB)
    pages: list[list[tuple[str, str]]] = []
    after, has_more = None, True
    while has_more:
        found, has_more = await store.credits.usage(ANN.owner, limit=2, after=after)
        pages.append(sorted((one.run_id, one.model) for one in found))
        after = found[-1].run_id
    assert pages == [[(second, "a")], [(first, "a"), (first, "b"), (first, "c")]]
    everybodys, _ = await store.credits.usage(None, limit=1)
    assert [(one.run_id, one.owner, one.user_id, one.agent_name) for one in everybodys] == [
        (others, BOB.owner, "bob", "echo")
    ]


async def test_rating_anew_changes_the_cost_of_what_it_names_alone(store: Store) -> None:
    one = await ended(store, used("a", 1, 10), used("b", 1, 20))
    two = await ended(store, used("a", 1))
    costs = ((one, "a", 11), (two, "a", 2**62), (one, "b", None), ("run_gone", "a", 1))
    assert await store.journal.commit((RateUsage(costs),)) == (Done(),)
    found, _ = await store.credits.usage(None, limit=10)
    assert {(row.run_id, row.model): row.cost for row in found} == {
        (one, "a"): 11,
        (one, "b"): None,
        (two, "a"): 2**62,
    }


async def test_usage_of_a_period_is_that_of_the_runs_that_were_accepted_in_it(store: Store) -> None:
    at = [await ended(store, used("a", number), used("b", 1), at=number * 1000) for number in range(1, 5)]
    since, until = Instant(2_000_000), Instant(4_000_000)
    found = await store.credits.usage_between(since, until, limit=3)
    assert [(one.run_id, one.model) for one in found] == [(at[1], "a"), (at[1], "b"), (at[2], "a")]
    rest = await store.credits.usage_between(since, until, limit=3, after=(at[2], "a"))
    assert [(one.run_id, one.model) for one in rest] == [(at[2], "b")]
    assert await store.credits.usage_between(since, until, limit=3, after=(at[2], "b")) == []
    assert await store.credits.totals(since, until) == [
        ModelTotal("a", 2, 5, 10, None),
        ModelTotal("b", 2, 2, 4, None),
    ]


async def test_totals_are_of_all_of_an_organization_or_of_one_of_its_users(store: Store) -> None:
    stranger = Caller(Owner("umbrella", "ann"))
    for caller, cost in ((ANN, 1), (ANN, None), (BOB, 4), (stranger, 8)):
        await ended(store, used("a", 1, cost), caller=caller)
    ever = Instant(0), Instant(2**60)
    assert await store.credits.totals(*ever) == [ModelTotal("a", 4, 4, 8, 13)]
    assert await store.credits.totals(*ever, organization="acme") == [ModelTotal("a", 3, 3, 6, 5)]
    assert await store.credits.totals(*ever, organization="acme", user="ann") == [ModelTotal("a", 2, 2, 4, 1)]
    assert await store.credits.totals(*ever, organization="acme", user="zoe") == []


async def test_what_was_charged_and_tracked_is_listed_newest_first_to_whom_it_concerns(store: Store) -> None:
    first = await ended(store, tracked=("1", "0.000000000001"))
    second = await ended(store, tracked=("2",))
    await ended(store, caller=BOB, tracked=("4",))
    found, has_more = await store.credits.records(ANN.owner, limit=2)
    assert [(one.run_id, one.record.credits, one.record.metadata) for one in found] == [
        (second, Decimal(2), {"n": 1}),
        (first, Decimal("0.000000000001"), {"n": 1}),
    ]
    assert has_more
    rest, has_more = await store.credits.records(ANN.owner, limit=2, after=found[-1].record.id)
    assert ([one.record.credits for one in rest], has_more) == ([Decimal(1)], False)
    newest, has_more = await store.credits.records(None, limit=1)
    assert ([(one.owner, one.record.credits) for one in newest], has_more) == ([(BOB.owner, Decimal(4))], True)
