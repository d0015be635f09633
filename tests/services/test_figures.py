"""Figures are made once for all who wait for them, and never from before they were asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from innkeeper.core.errors import StorageUnavailable
from innkeeper.services.figures import Figures
from innkeeper.storage.figure_readers import StoredFigures
from innkeeper.storage.sqlite.stores import SqliteStore


class Counting:
    """Implements `ports.meters.FigureReader`: tells how often it was asked, when it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.fails = False

    def text(self, queues: Mapping[str, int]) -> bytes:
        self.asked += 1
        told = self.asked
        assert self.may_answer.wait(10)
        if self.fails:
            raise RuntimeError("no")
        return str(told).encode()

    def summary(self, queues: Mapping[str, int]) -> Mapping[str, object]:
        return {"queue": queues}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "data" / "a.db")
    await opened.open()
    yield opened
    await opened.close()


def figures_of(store: SqliteStore, counting: Counting) -> Figures:
    return Figures(figures=counting, sessions=store.sessions, commands=store.commands, counts=store.counts)


async def asked(counting: Counting, times: int) -> None:
    async with asyncio.timeout(10):
        while counting.asked < times:
            await asyncio.sleep(0.001)


async def test_all_who_ask_while_an_answer_is_made_share_the_next_one(store: SqliteStore) -> None:
    counting = Counting()
    figures = figures_of(store, counting)
    counting.may_answer.clear()
    first = asyncio.create_task(figures.text())
    await asked(counting, 1)
    late = [asyncio.create_task(figures.text()) for _ in range(100)]
    await asyncio.sleep(0)
    counting.may_answer.set()
    assert await first == b"1"
    assert set(await asyncio.gather(*late)) == {b"2"}
    assert await figures.text() == b"3"


async def test_who_leaves_takes_nobody_along(store: SqliteStore) -> None:
    counting = Counting()
    figures = figures_of(store, counting)
    counting.may_answer.clear()
    leaving, staying = asyncio.create_task(figures.text()), asyncio.create_task(figures.text())
    await asked(counting, 1)
    leaving.cancel()
    counting.may_answer.set()
    assert await staying == b"1"


async def test_an_answer_that_fails_fails_once(store: SqliteStore) -> None:
    counting = Counting()
    figures = figures_of(store, counting)
    counting.fails = True
    with pytest.raises(RuntimeError):
        await figures.text()
    counting.fails = False
    assert await figures.text() == b"2"


class Away(StoredFigures):
    """A store that does not answer, or not in time."""

    async def queued_runs(self) -> int:
        raise StorageUnavailable("The database is away.")


async def test_a_store_that_is_away_keeps_no_figures_back_but_its_own(store: SqliteStore) -> None:
    store.counts = Away(store.counts._fetch)
    assert await figures_of(store, Counting()).summary() == {"queue": {}}


async def test_queues_are_counted_in_the_store(store: SqliteStore) -> None:
    assert await figures_of(store, Counting()).summary() == {"queue": {"background": 0, "commands": 0}}
