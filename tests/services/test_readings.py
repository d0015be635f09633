"""Readings of logs that are deleted, or go on, while they are read: nobody takes a part for the whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from innkeeper.core.changes import DeleteRun, Segment
from innkeeper.core.errors import RunNotFound
from innkeeper.core.events import RunStarted, TextDelta, payload
from innkeeper.core.outcomes import Accepted
from innkeeper.services.readings import RunReading
from innkeeper.services.tails import Tail
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import accept, accepted_by, end, events, fence, run_of

LINES = 8


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "data" / "a.db")
    await opened.open()
    yield opened
    await opened.close()


async def _spoken(store: SqliteStore) -> Accepted:
    """A run that has said much more than a reader takes at once."""
    first = Segment(1, 1, payload(RunStarted("run", "s", "echo")))
    accepted = await accepted_by(store, replace(accept("q", "s"), first=first))
    for seq in range(2, LINES):
        said = events(seq, payload(TextDelta("a line, " * 10_000)))
        await store.journal.commit((said,), fence(accepted))
    return accepted


async def _ended(store: SqliteStore, accepted: Accepted) -> None:
    await store.journal.commit((end(accepted, seq=LINES),), fence(accepted))


@pytest.mark.parametrize("is_followed", [False, True])
async def test_whoever_reads_a_log_that_is_deleted_meanwhile_is_told(store: SqliteStore, is_followed: bool) -> None:
    accepted = await _spoken(store)
    await _ended(store, accepted)
    run = await run_of(store, accepted.run.id)
    tail = Tail(run, after=run.last_seq) if is_followed else None
    reading = RunReading(store.runs, run.id, tail, 0, lambda _: None, until=run.last_seq)
    assert await reading.next()
    assert reading.after < run.last_seq
    await store.journal.commit((DeleteRun(run.id, run.owner),))
    with pytest.raises(RunNotFound, match="deleted meanwhile"):
        await asyncio.wait_for(reading.next(), 30)


async def test_whoever_reads_what_is_stored_hears_nothing_that_is_said_later(store: SqliteStore) -> None:
    accepted = await _spoken(store)
    run = await run_of(store, accepted.run.id)
    reading = RunReading(store.runs, run.id, None, 0, lambda _: None, until=run.last_seq)
    assert await reading.next()
    await _ended(store, accepted)
    while await reading.next() is not None:
        pass
    assert reading.after == run.last_seq == LINES - 1
