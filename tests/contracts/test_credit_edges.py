"""Credits where something unusual happens: another's session, runs that only join, amounts at the ends of numbers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from innkeeper import pricing
from innkeeper.core.administration import DeriveChatLogs, ForgetUser
from innkeeper.core.changes import Segment
from innkeeper.core.claims import Claim
from innkeeper.core.context import RunContext
from innkeeper.core.credits import ORGANIZATION, Terms
from innkeeper.core.errors import InsufficientCredits, Invalid
from innkeeper.core.events import RunStarted, payload
from innkeeper.core.outcomes import Missing, Repeated, Steered
from innkeeper.core.runs import RunStatus
from innkeeper.core.usage import MAX_MODEL_NAME, MAX_TOKENS, Pricing, Usage, bounded
from innkeeper.services.live import LiveRun
from innkeeper.services.settlements import Settlements
from tests.contracts.test_credit_runs import FLAT, ONE, give, left
from tests.support.turns import (
    ANN,
    Store,
    accept,
    accepted_by,
    end,
    fence,
    new_id,
    now,
    run_of,
    take_turn,
    taken_by,
)

NOBODYS = Terms(ONE, Decimal(1), Decimal(1), ())
"""Of a caller who has no balance."""


def a_context() -> RunContext:
    return RunContext(clock=lambda: 0.0, new_id=new_id, now=now)


def settlements_of(store: Store) -> Settlements:
    return Settlements(store.journal, now, new_id)


async def test_a_session_that_is_named_without_its_user_is_charged_to_that_user(store: Store) -> None:
    await give(store, "1", "eve")
    await give(store, "10", "ann")
    await take_turn(store, "Hi", "s", user_id="eve")
    for terms in (FLAT, NOBODYS):
        accepted = await accepted_by(store, accept("Again", "s", terms=terms))
        assert accepted.run.user_id == "eve"
        assert await left(store, "eve") == (Decimal(0), Decimal(1)) and await left(store) == (Decimal(10), Decimal(0))
        with pytest.raises(InsufficientCredits, match="you have 0 left"):
            await store.journal.commit((accept("And again", "s", terms=terms),))
        await store.journal.commit((end(accepted),), fence(accepted))
        assert await left(store, "eve") == (Decimal(1), Decimal(0))


async def test_a_request_that_only_joins_finds_what_it_had_made_or_steers_or_makes_nothing(store: Store) -> None:
    await give(store, "10")
    claim = Claim("key", "print")
    first = await accepted_by(store, accept("Hi", "s", claim=claim, terms=FLAT))
    joining = replace(accept("Hi", "s", claim=claim, terms=FLAT), only_joins=True)
    (repeated,) = await store.journal.commit((joining,))
    assert isinstance(repeated, Repeated) and repeated.claimed.subject == first.run.id
    (steered,) = await store.journal.commit((replace(accept("More", "s", when_busy="steer"), only_joins=True),))
    assert isinstance(steered, Steered) and steered.run_id == first.run.id
    for refused in (
        accept("Hi", "s", claim=Claim("other", "print"), terms=FLAT),
        accept("Hi", "s", when_busy="reject", terms=FLAT),
        accept("Hi", "s", when_busy="interrupt", terms=FLAT),
        accept("Hi", "new", when_busy="steer", terms=FLAT),
    ):
        assert await store.journal.commit((replace(refused, only_joins=True),)) == (Missing(),)
        assert await store.runs.find(ANN, refused.run.id) is None
    assert await left(store) == (Decimal(9), Decimal(1)), "nothing else was set aside"
    assert (await run_of(store, first.run.id)).status is RunStatus.RUNNING
    await store.journal.commit((end(first),), fence(first))


async def test_a_balance_that_cannot_be_counted_is_refused_and_the_last_one_stays(store: Store) -> None:
    unbounded = Terms(Pricing(Decimal(1), Decimal("0.1")), None, Decimal(1), ("ann",))
    for _ in range(9):
        await give(store, "1000000000")
        await accepted_by(store, accept(terms=unbounded))
    with pytest.raises(Invalid, match="too much is set aside"):
        await give(store, "1000000000")
    assert await left(store) == (Decimal(0), Decimal(9_000_000_000))


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_run_that_nobody_executed_costs_nothing(store: Store, has_begun: bool) -> None:
    await give(store, "10")
    change = accept(terms=FLAT)
    told = payload(RunStarted(change.run.id, change.run.session_id, change.run.agent_name))
    change = replace(change, first=Segment(1, 1, told))
    accepting = store.journal.commit((change,))
    await asyncio.wait([accepting])
    settlements, mine = settlements_of(store), fence(accepting.result()[0])  # type: ignore[arg-type]
    if has_begun:
        await settlements.end_inherited(store.runs, await run_of(store, change.run.id), mine)
    else:
        await settlements.disown(store.runs, change.run, mine, accepting)
    assert await left(store) == (Decimal(9 if has_begun else 10), Decimal(0))
    assert (await run_of(store, change.run.id)).status is RunStatus.INTERRUPTED


async def test_what_was_tracked_just_before_a_run_is_left_to_others_is_booked(store: Store) -> None:
    await give(store, "10")
    await accepted_by(store, accept(background=True, terms=FLAT))
    taken = await taken_by(store)
    assert taken is not None
    context = a_context()
    live = LiveRun(taken.run, fence(taken), context, store.journal, store.injections)
    context.track_usage(2, "a look-up")
    await settlements_of(store).release(live)
    assert [record.credits for record in await store.credits.records_of(taken.run.id)] == [Decimal(2)]
    again = await taken_by(store, "heir")
    assert again is not None and again.run.id == taken.run.id
    await store.journal.commit((end(again, seq=again.run.last_seq + 1),), fence(again, worker="heir"))
    assert await left(store) == (Decimal(8), Decimal(0))


async def test_a_run_that_ends_while_what_it_tracked_is_being_booked_ends(store: Store) -> None:
    await give(store, "10")
    accepted = await accepted_by(store, accept(terms=FLAT))
    context = a_context()
    live = LiveRun(accepted.run, fence(accepted), context, store.journal, store.injections)
    context.track_usage(2, "a look-up")
    live._append_events()
    async with asyncio.timeout(10):
        await settlements_of(store).settle(live, None)
    assert await left(store) == (Decimal(8), Decimal(0))


@pytest.mark.parametrize("amount", ["1E+400", "1000000000.1", "1E+999999"])
def test_credits_that_no_balance_can_hold_are_not_tracked(amount: str) -> None:
    context = a_context()
    with pytest.raises(Invalid, match="1000000000 at most"):
        context.track_usage(Decimal(amount), "much")
    assert context.usage["records"] == [] and not context.has_unsettled


def test_integers_that_python_does_not_write_out_are_refused_as_other_amounts_are() -> None:
    much = 10**5_000
    with pytest.raises(Invalid, match="credits must be"):
        a_context().track_usage(much, "much")
    with pytest.raises(Invalid, match="credits_per_request must be"):
        pricing(credits_per_request=much)


def test_metadata_that_cannot_be_written_is_refused_in_the_agents_own_call() -> None:
    class Silent:
        def __str__(self) -> str:
            raise RuntimeError("not to be told")

    cyclic: dict[str, object] = {}
    cyclic["itself"] = cyclic
    context = a_context()
    for metadata in (cyclic, {"a": Silent()}):
        with pytest.raises(Invalid, match="what JSON can tell"):
            context.track_usage(1, "odd", metadata)
    assert not context.has_unsettled
    context.track_usage(1, "fine", {"at": now, "set": {1}, "nan": float("nan"), "half": "\ud800"})


def test_credits_of_many_digits_are_rounded_as_sums_are() -> None:
    context = a_context()
    context.track_usage(Decimal("0." + "3" * 5_000), "a third")
    ((record),) = context.unsettled_records()
    assert record.credits == Decimal("0." + "3" * 28)


async def test_tokens_beyond_all_counting_and_names_beyond_all_keys_are_bounded_and_stop_nobody(store: Store) -> None:
    usage = bounded(Usage(2**70, MAX_TOKENS, "m" * 100_000))
    for _ in range(20):
        usage = usage.plus(usage)
    assert usage == Usage(MAX_TOKENS, MAX_TOKENS, "m" * MAX_MODEL_NAME)
    for number in range(9):
        accepted = await accepted_by(store, accept(f"Hi {number}"))
        await store.journal.commit((end(accepted, usage=usage),), fence(accepted))
    await store.journal.commit((DeriveChatLogs(),))
    assert not await store.chat_logs.has_underived()


async def test_a_run_under_way_is_forgotten_with_its_session_and_gives_back_what_was_set_aside(store: Store) -> None:
    await give(store, "5", ORGANIZATION)
    await accepted_by(store, accept(recorded=False, terms=FLAT))
    assert await left(store, ORGANIZATION) == (Decimal(4), Decimal(1))
    while (await store.journal.commit((ForgetUser("ann", "acme", "forgotten-1", now()),)))[0].count:  # type: ignore[union-attr]
        pass
    assert await left(store, ORGANIZATION) == (Decimal(5), Decimal(0))
