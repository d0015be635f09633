"""Webhooks in the journal: due with the run's end, held by one worker at a time, settled once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from innkeeper.core.changes import DeleteSession, SettleDelivery, TakeDeliveries
from innkeeper.core.outcomes import Accepted, Done, Ended, Missing, TakenDeliveries
from innkeeper.core.times import Instant
from innkeeper.core.webhooks import HOLD, Delivery
from tests.support.turns import Store, accept, accepted_by, end, fence, now, run_of, taken_by

URL = "https://example.com/hook"


async def _ended(store: Store, session_id: str = "s") -> Accepted:
    accepted = await accepted_by(store, accept("q", session_id, webhook=URL))
    assert await store.journal.commit((end(accepted),), fence(accepted)) == (Ended(None, is_awaited=True),)
    return accepted


async def _due(store: Store, instant: int | None = None, limit: int = 10) -> tuple[Delivery, ...]:
    (outcome,) = await store.journal.commit((TakeDeliveries("w", Instant(instant or now()), limit),))
    assert isinstance(outcome, TakenDeliveries)
    return outcome.deliveries


async def test_a_webhook_is_due_when_its_run_has_ended(store: Store) -> None:
    await accepted_by(store, accept("q", "without"))
    accepted = await accepted_by(store, accept("q", "s", webhook=URL))
    assert await _due(store) == ()
    await store.journal.commit((end(accepted),), fence(accepted))
    (delivery,) = await _due(store)
    assert delivery == Delivery(f"msg_{accepted.run.id[4:]}", await run_of(store, accepted.run.id), URL, 1)
    assert delivery.run.status == "completed"


async def test_a_background_run_has_its_webhook_too(store: Store) -> None:
    await accepted_by(store, accept("q", "s", background=True, webhook=URL))
    taken = await taken_by(store)
    assert taken is not None
    assert await store.journal.commit((end(taken),), fence(taken)) == (Ended(None, is_awaited=True),)
    assert [delivery.url for delivery in await _due(store)] == [URL]


async def test_the_same_end_again_makes_no_second_delivery(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s", webhook=URL))
    change = end(accepted)
    for _ in range(2):
        assert await store.journal.commit((change,), fence(accepted)) == (Ended(None, is_awaited=True),)
    assert len(await _due(store)) == 1


async def test_what_is_taken_is_nobody_elses_for_a_while(store: Store) -> None:
    await _ended(store)
    instant = now()
    (first,) = await _due(store, instant)
    assert await _due(store, instant + HOLD - 1) == ()
    assert await _due(store, instant + HOLD) == (replace(first, attempt=2),)


async def test_what_has_waited_longest_is_taken_first_and_so_many_at_a_time(store: Store) -> None:
    ended = [await _ended(store, f"s{n}") for n in range(5)]
    taken = [[one.run.id for one in await _due(store, limit=2)] for _ in range(3)]
    assert [id for some in taken for id in some] == [one.run.id for one in ended]


async def test_a_delivery_that_is_settled_is_due_again_only_when_it_is_to_be_tried_again(store: Store) -> None:
    for name, is_delivered, pause in (("done", True, None), ("failed", False, None), ("again", False, 1_000)):
        accepted = await _ended(store, name)
        (taken,) = await _due(store)
        instant = now()
        retry_at = None if pause is None else Instant(instant + pause)
        change = SettleDelivery(taken.id, is_delivered, retry_at, instant)
        assert await store.journal.commit((change,)) == (Done(),)
        assert await _due(store, instant + 999) == ()
        later = await _due(store, instant + 2 * HOLD)
        assert [(one.run.id, one.attempt) for one in later] == ([(accepted.run.id, 2)] if pause else [])


async def test_what_is_delivered_stays_so(store: Store) -> None:
    await _ended(store)
    (taken,) = await _due(store)
    assert await store.journal.commit((SettleDelivery(taken.id, True, None, now()),)) == (Done(),)
    await store.journal.commit((SettleDelivery(taken.id, False, now(), now()),))
    assert await _due(store, now() + 2 * HOLD) == ()


async def test_what_is_unknown_is_missing(store: Store) -> None:
    assert await store.journal.commit((SettleDelivery("msg_none", True, None, now()),)) == (Missing(),)


async def test_several_takers_take_each_delivery_once(store: Store) -> None:
    for number in range(12):
        await _ended(store, f"s{number}")
    instant = now()
    taken = await asyncio.gather(*(_due(store, instant, limit=2) for _ in range(12)))
    ids = [one.id for some in taken for one in some]
    assert len(ids) == len(set(ids)) == 12


async def test_deliveries_go_with_their_session(store: Store) -> None:
    accepted = await _ended(store)
    await store.journal.commit((DeleteSession(accepted.run.session_key),))
    assert await _due(store) == ()
