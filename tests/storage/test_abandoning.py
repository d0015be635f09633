"""Stores that are closed without waiting for anything: whoever still waits for an answer gets one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from innkeeper.core.errors import StorageUnavailable
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import accept


@pytest.mark.parametrize("said", ["Hi", "a long story, " * 20_000], ids=["small", "large"])
async def test_calls_of_a_store_that_is_abandoned_are_refused(tmp_path: Path, said: str) -> None:
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    calls = [store.journal.commit((accept(said),)) for _ in range(70)]
    store.abandon()
    async with asyncio.timeout(30):
        await asyncio.wait(calls)
    assert {type(call.exception()) for call in calls} == {StorageUnavailable}
