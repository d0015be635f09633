"""Watching a session's log: everything beyond a cursor, once and in order, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from innkeeper.buses.memory import MemoryBus
from innkeeper.core.changes import CreateSession, DeleteSession
from innkeeper.core.control_changes import PublishEvent
from innkeeper.core.errors import ShuttingDown, StorageUnavailable
from innkeeper.core.identity import LOCAL_OWNER
from innkeeper.core.session_events import EventFilter, Note, SessionEvent
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.ports.readers import EventReader
from innkeeper.services import session_tails
from innkeeper.services.session_tails import Over, SessionTails, Subscription
from innkeeper.services.wakes import Wakes
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.sizes import within

NOW = Instant(1_000_000)
SESSION = Session("key", LOCAL_OWNER, "local", "s", NOW, NOW)


class Watched:
    """The store's events, whose reads are counted, and fail while there is a failure."""

    def __init__(self, events: EventReader) -> None:
        self._events = events
        self.reads = 0
        self.failure: StorageUnavailable | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def page(
        self, session: Session, wanted: EventFilter, *, limit: int, offset: int = 0
    ) -> tuple[Sequence[SessionEvent], int]:
        await self.answers.wait()
        return await self._events.page(session, wanted, limit=limit, offset=offset)

    async def find(self, session: Session, sequence: int) -> SessionEvent | None:
        return await self._events.find(session, sequence)

    async def beyond(self, session: Session, after: int, limit: int) -> Sequence[SessionEvent]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return await self._events.beyond(session, after, limit)

    async def of_run(
        self, session_key: str, run_id: str, *, after: int = 0, limit: int = 10_000
    ) -> Sequence[SessionEvent]:
        return await self._events.of_run(session_key, run_id, after=after, limit=limit)


class Stage:
    """A store with one session, and the tails of a process that serves it; an event is sent as `size` bytes."""

    def __init__(self, store: SqliteStore, size: int = 8) -> None:
        self.store = store
        self.events = Watched(store.events)
        self.tails = SessionTails(
            events=self.events,
            sessions=store.sessions,
            encode=lambda event: str(event.sequence).encode().rjust(size),
            wakes=Wakes(MemoryBus(), "worker"),
        )

    async def publish(self, count: int, *, tells: bool = True) -> None:
        await self.store.journal.commit(tuple(PublishEvent("key", Note("T", NOW)) for _ in range(count)))
        if tells:
            self.tails.grew("key")


@asynccontextmanager
async def staged(folder: Path, size: int = 8) -> AsyncIterator[Stage]:
    store = SqliteStore(folder / "a.db")
    await store.open()
    try:
        await store.journal.commit((CreateSession(SESSION),))
        stage = Stage(store, size)
        yield stage
        await stage.tails.cut()
    finally:
        await store.close()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as opened:
        yield opened


async def seen(subscription: Subscription, last: int) -> list[int]:
    """What a subscriber is sent until it has seen event `last`."""
    found: list[int] = []
    async with asyncio.timeout(10):
        while subscription.after < last:
            batch = await subscription.next()
            assert batch is not None, subscription.over
            found += [int(part) for part in batch.parts]
            subscription.after = batch.last
    return found


@pytest.mark.parametrize("after", [0, 1, 99, 100, 103])
async def test_subscriber_sees_what_is_stored_beyond_its_cursor_and_then_what_comes(stage: Stage, after: int) -> None:
    await stage.publish(100)
    subscription = await stage.tails.subscribe(SESSION, after)
    before = await seen(subscription, 100) if after < 100 else []
    watching = asyncio.create_task(seen(subscription, 110))
    for _ in range(10):
        await stage.publish(1)
    assert before + await watching == list(range(after + 1, 111))


async def test_what_nobody_told_of_is_found_within_a_second(stage: Stage) -> None:
    subscription = await stage.tails.subscribe(SESSION, 0)
    await stage.publish(3, tells=False)
    assert await seen(subscription, 3) == [1, 2, 3]


async def test_subscriber_that_falls_behind_what_is_in_memory_misses_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path, size=64 * 1024) as stage:
        slow, quick = [await stage.tails.subscribe(SESSION, 0) for _ in range(2)]
        for last in range(20, 101, 20):
            await stage.publish(20)
            assert len(await seen(quick, last)) == 20
        assert await seen(slow, 100) == list(range(1, 101))


async def test_subscribers_share_what_is_read_for_them(stage: Stage) -> None:
    await stage.publish(1000)
    audience = [await stage.tails.subscribe(SESSION, 0) for _ in range(200)]
    assert all(found == list(range(1, 1001)) for found in await asyncio.gather(*(seen(one, 1000) for one in audience)))
    assert stage.events.reads < 20, "1,000 events are a few pages, and not a few for each"
    watching = asyncio.gather(*(seen(one, 1010) for one in audience))
    stage.events.reads = 0
    for _ in range(10):
        await stage.publish(1)
        await asyncio.sleep(0.01)
    await watching
    assert stage.events.reads <= within(22, 60), "and not ten for each of 200"


async def test_subscribers_that_begin_at_different_places_share_reads_and_let_others_have_their_turn(
    stage: Stage,
) -> None:
    await stage.publish(1000)
    turns = batches = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def replay(after: int) -> None:
        nonlocal batches
        subscription = await stage.tails.subscribe(SESSION, after)
        found = []
        while subscription.after < 1000:
            batch = await subscription.next()
            assert batch is not None
            batches += 1
            found += [int(part) for part in batch.parts]
            subscription.after = batch.last
        assert found == list(range(after + 1, 1001))

    others = asyncio.create_task(take_turns())
    async with asyncio.TaskGroup() as group:
        for after in range(0, 990, 7):
            group.create_task(replay(after))
    others.cancel()
    assert stage.events.reads < 40
    assert turns >= batches > 141


async def test_large_audience_takes_less_than_half_of_the_time(stage: Stage) -> None:
    busy = 0.0

    async def watch(subscription: Subscription) -> None:
        nonlocal busy
        while subscription.after < 100:
            batch = await subscription.next()
            assert batch is not None
            began = time.perf_counter()
            while time.perf_counter() - began < 0.0001:
                pass  # what sending costs
            busy += time.perf_counter() - began
            subscription.after = batch.last

    watching = [asyncio.create_task(watch(await stage.tails.subscribe(SESSION, 0))) for _ in range(200)]
    began = time.perf_counter()
    for _ in range(100):
        await stage.publish(1)
        await asyncio.sleep(0.005)
    await asyncio.gather(*watching)
    assert busy < (time.perf_counter() - began) / 2


async def test_store_that_does_not_answer_for_a_while_loses_subscribers_nothing(stage: Stage) -> None:
    await stage.publish(10)
    late, live = await stage.tails.subscribe(SESSION, 0), await stage.tails.subscribe(SESSION, 10)
    stage.events.failure = StorageUnavailable("It is down.")
    watching = asyncio.gather(seen(late, 15), seen(live, 15))
    await stage.publish(5)
    await asyncio.sleep(0.1)
    assert not watching.done()
    stage.events.failure = None
    assert list(await watching) == [list(range(1, 16)), list(range(11, 16))]


async def test_a_store_that_is_away_is_told_of_once_and_not_at_each_look(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session_tails, "_LOOK_SECONDS", 0.01)
    subscription = await stage.tails.subscribe(SESSION, 0)
    for times in (1, 2):
        stage.events.failure, stage.events.reads = StorageUnavailable("It is down."), 0
        async with asyncio.timeout(10):
            while stage.events.reads < 5:
                await asyncio.sleep(0.01)
        stage.events.failure = None
        await stage.publish(1)
        await seen(subscription, times)
        assert caplog.text.count("cannot be read for its subscribers: It is down.") == times


@pytest.mark.parametrize("is_made_anew", [False, True])
async def test_subscriber_is_told_that_another_process_has_deleted_the_session(
    stage: Stage, is_made_anew: bool
) -> None:
    subscription = await stage.tails.subscribe(SESSION, 0)
    await stage.store.journal.commit((DeleteSession("key"),))
    if is_made_anew:
        await stage.store.journal.commit((CreateSession(replace(SESSION, key="another")),))
    async with asyncio.timeout(30):
        assert await subscription.next() is None
    assert subscription.over is Over.DELETED


async def test_process_that_leaves_shows_the_last_events_and_then_sends_everybody_away(stage: Stage) -> None:
    subscription = await stage.tails.subscribe(SESSION, 0)
    watching = asyncio.create_task(seen(subscription, 5))
    await asyncio.sleep(0)
    await stage.publish(5, tells=False)
    await stage.tails.cut()
    assert await watching == [1, 2, 3, 4, 5]
    assert (await subscription.next(), subscription.over) == (None, Over.LEAVING)
    with pytest.raises(ShuttingDown):
        await stage.tails.subscribe(SESSION, 0)


async def test_session_that_nobody_watches_any_more_is_not_followed(stage: Stage) -> None:
    before = asyncio.all_tasks()
    audience = [await stage.tails.subscribe(SESSION, 0) for _ in range(3)]
    assert (stage.tails.subscribers, len(asyncio.all_tasks() - before)) == (3, 1)
    for subscription in audience:
        subscription.close()
        subscription.close()
    await asyncio.sleep(0)
    assert (stage.tails.subscribers, asyncio.all_tasks() - before) == (0, set())
    again = await stage.tails.subscribe(SESSION, 0)
    await stage.publish(1)
    assert await seen(again, 1) == [1]


async def test_who_leaves_a_session_in_which_nothing_happens_leaves_nothing_behind(stage: Stage) -> None:
    stays = await stage.tails.subscribe(SESSION, 0)
    for _ in range(100):
        leaving = await stage.tails.subscribe(SESSION, 0)
        waiting = asyncio.create_task(leaving.next())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        leaving.close()
    assert not stays._tail._wakers


async def test_whoever_comes_in_the_moment_in_which_the_process_leaves_is_followed_by_nobody(stage: Stage) -> None:
    stage.events.answers.clear()
    coming = asyncio.create_task(stage.tails.subscribe(SESSION, 0))
    await asyncio.sleep(0)  # it asks the store
    await stage.tails.cut()
    stage.events.answers.set()
    with pytest.raises(ShuttingDown):
        await coming
    assert not stage.tails._tails
