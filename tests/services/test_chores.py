"""Chores: done again and again, whatever became of the last time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from innkeeper.core.errors import StorageUnavailable
from innkeeper.services.chores import Chore


async def test_a_chore_that_failed_is_done_again_and_the_log_says_how_it_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures: Iterator[Exception] = iter((StorageUnavailable("The store is away."), ValueError("a fault")))
    is_done = asyncio.Event()

    async def work() -> None:
        for failure in failures:
            raise failure
        is_done.set()

    chore = Chore("sweeping", work, first=0.0, every=0.001)
    chore.open()
    async with asyncio.timeout(10):
        await is_done.wait()
    await chore.close()
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [("WARNING", "sweeping is tried again later: The store is away."), ("ERROR", "sweeping failed")]


async def test_a_chore_that_is_closed_stops_in_the_midst_of_its_work() -> None:
    has_begun, is_over = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_over.set()

    chore = Chore("sweeping", work, first=0.0, every=0.0)
    chore.open()
    async with asyncio.timeout(10):
        await has_begun.wait()
    await chore.close()
    assert is_over.is_set()
    await chore.close()
