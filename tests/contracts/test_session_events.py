"""The log of a session: gapless, in the order of commits, found by type, time and place at the same cost anywhere."""

from __future__ import annotations

import asyncio

from innkeeper.core.changes import AppendEvents, DeleteSession, Segment
from innkeeper.core.control_changes import Published, PublishEvent
from innkeeper.core.events import ToolCalled, payload
from innkeeper.core.outcomes import Missing
from innkeeper.core.session_events import EventFilter, Note, SessionEvent, note_of
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from tests.support.turns import ANN, Store, accept, accepted_by, end, fence, kept_session, now, session_called


async def _publish(store: Store, session: Session, event_type: str, at: Instant | None = None) -> SessionEvent:
    note = Note(event_type, at or now(), {"type": event_type}, "client")
    (outcome,) = await store.journal.commit((PublishEvent(session.key, note),))
    assert isinstance(outcome, Published)
    return outcome.event


async def _page(store: Store, session: Session, wanted: EventFilter, limit: int = 100, offset: int = 0) -> list[int]:
    page, _ = await store.events.page(session, wanted, limit=limit, offset=offset)
    return [event.sequence for event in page]


async def _total(store: Store, session: Session, wanted: EventFilter) -> int:
    return (await store.events.page(session, wanted, limit=1))[1]


async def test_events_get_gapless_numbers_whoever_writes_them_at_the_same_time(store: Store) -> None:
    session = await kept_session(store)
    told = await asyncio.gather(*(_publish(store, session, f"T{index % 3}") for index in range(60)))
    assert sorted(event.sequence for event in told) == list(range(1, 61))
    assert await _page(store, session, EventFilter()) == list(range(1, 61))
    for kind in range(3):
        assert await _total(store, session, EventFilter(f"T{kind}")) == 20


async def test_a_run_is_told_of_from_its_start_over_its_tools_to_its_end(store: Store) -> None:
    accepted = await accepted_by(store, accept("Hello", session_id="s"))
    run_id, key = accepted.run.id, accepted.run.session_key
    called = payload(ToolCalled("look", "call_1", '{"at": "it"}'))
    note = note_of(run_id, 2, called, now())
    assert note is not None
    await store.journal.commit((AppendEvents(Segment(2, 1, called), now(), (note,), key),), fence(accepted))
    await store.journal.commit((end(accepted, "Well", seq=3),), fence(accepted))
    session = await session_called(store, "s")
    page, total = await store.events.page(session, EventFilter(), limit=10)
    assert [(event.event_type, event.run_id) for event in page] == [
        ("run_started", run_id),
        ("tool_call", run_id),
        ("run_ended", run_id),
    ]
    assert total == 3
    assert page[1].data["tool_name"] == "look"
    assert page[1].data["seq"] == 2
    assert page[2].data["status"] == "completed"
    assert await store.events.of_run(key, run_id) == [
        SessionEvent(**{name: getattr(event, name) for name in _FIELDS} | {"session_id": ""}) for event in page
    ]


_FIELDS = ("session_key", "sequence", "event_type", "data", "source", "created_at", "run_id", "metadata")


async def test_a_page_begins_beyond_a_sequence_and_leaves_out_an_offset(store: Store) -> None:
    session = await kept_session(store)
    for index in range(20):
        await _publish(store, session, "even" if index % 2 else "odd")
    assert await _page(store, session, EventFilter(after=5), limit=3) == [6, 7, 8]
    assert await _page(store, session, EventFilter(after=5), limit=3, offset=10) == [16, 17, 18]
    assert await _page(store, session, EventFilter("even", after=5), limit=3) == [6, 8, 10]
    assert await _page(store, session, EventFilter("even", after=5), limit=3, offset=4) == [14, 16, 18]
    assert await _total(store, session, EventFilter("even", after=5)) == 8
    assert await _page(store, session, EventFilter("even"), limit=3, offset=100) == []
    assert await _page(store, session, EventFilter("none")) == []
    assert await _page(store, session, EventFilter(after=2**53)) == []


async def test_a_time_is_found_though_the_clocks_of_writers_differ(store: Store) -> None:
    session = await kept_session(store)
    began = now()
    for step in (0, 100, 50, 200, 300):  # one writer's clock is behind
        await _publish(store, session, "T", Instant(began + step))
    assert await _page(store, session, EventFilter(since=Instant(began + 100))) == [2, 3, 4, 5]
    assert await _page(store, session, EventFilter(until=Instant(began + 200))) == [1, 2, 3]
    assert await _page(store, session, EventFilter("T", since=Instant(began + 100), until=Instant(began + 300))) == [
        2,
        3,
        4,
    ]
    assert await _total(store, session, EventFilter(since=Instant(began + 1000))) == 0


async def test_a_session_that_is_gone_takes_no_events_and_keeps_none(store: Store) -> None:
    session = await kept_session(store)
    await _publish(store, session, "T")
    await store.journal.commit((DeleteSession(session.key),))
    (outcome,) = await store.journal.commit((PublishEvent(session.key, Note("T", now())),))
    assert outcome == Missing()
    assert await _page(store, session, EventFilter()) == []


async def test_a_conversation_that_is_not_recorded_leaves_no_events(store: Store) -> None:
    accepted = await accepted_by(store, accept("Hello", recorded=False))
    session = Session(accepted.run.session_key, ANN.owner, "", "x", now(), now())
    assert await _page(store, session, EventFilter()) == []
    await store.journal.commit((end(accepted, "Well"),), fence(accepted))
    assert await _page(store, session, EventFilter()) == []


async def test_a_page_of_long_events_ends_early_and_the_next_goes_on(store: Store) -> None:
    session = await kept_session(store)
    for size in (1_000, 1_500_000, 1_500_000, 1_500_000, 5_000_000, 10):
        note = Note("T", now(), {"text": "x" * size}, "client")
        await store.journal.commit((PublishEvent(session.key, note),))
    pages = []
    for after in (0, 3, 4, 5):
        page, total = await store.events.page(session, EventFilter(after=after), limit=50)
        pages.append([event.sequence for event in page])
        assert total == 6 - after
    assert pages == [[1, 2, 3], [4], [5], [6]]
    assert await _page(store, session, EventFilter("T"), offset=1) == [2, 3]


async def test_a_page_of_short_events_is_as_long_as_it_is_asked_for(store: Store) -> None:
    session = await kept_session(store)
    await store.journal.commit(tuple(PublishEvent(session.key, Note("T", now())) for _ in range(230)))
    assert await _page(store, session, EventFilter(), limit=200, offset=7) == list(range(8, 208))
    assert await _page(store, session, EventFilter("T"), limit=200) == list(range(1, 201))
