"""How much there is, over every store."""

from __future__ import annotations

from tests.support.turns import ANN, BOB, Store, accept, accepted_by, new_session, take_turn


async def test_runs_in_the_background_count_as_queued_until_they_are_taken(store: Store) -> None:
    assert await store.counts.queued_runs() == 0
    await accepted_by(store, accept("a", "s"))
    await accepted_by(store, accept("b", "s"))
    for caller in (ANN, BOB):
        await accepted_by(store, accept("c", background=True, caller=caller))
    assert await store.counts.queued_runs() == 2


async def test_the_runs_of_a_session_are_counted_by_status(store: Store) -> None:
    await take_turn(store, "a", "s")
    await take_turn(store, "b", "s")
    await accepted_by(store, accept("c", "s"))
    await accepted_by(store, accept("d", "s"))
    await accepted_by(store, accept("e", "t"))
    session = await store.sessions.find(ANN, "s")
    assert session is not None
    assert await store.counts.runs_of(session) == {"completed": 2, "running": 1, "queued": 1}
    assert await store.counts.runs_of(new_session("s")) == {}


async def test_the_length_of_a_sessions_log_is_that_of_what_is_in_it(store: Store) -> None:
    await take_turn(store, "a", "s")
    session = await store.sessions.find(ANN, "s")
    assert session is not None
    events = await store.events.beyond(session, 0, 100)
    assert await store.counts.events_of(session) == len(events) > 0
    assert await store.counts.events_of(new_session("s")) == 0
