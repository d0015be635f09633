"""A process that was stopped for a while does not take that for a store that did not answer."""

from __future__ import annotations

import asyncio
import time

import pytest

from innkeeper.core.errors import StorageUnavailable
from innkeeper.storage.postgres.connections import patiently


async def _patiently_after(stillness: float) -> str:
    attempts = iter((ConnectionResetError(), None))

    async def attempt() -> str:
        failure = next(attempts)
        if failure is not None:
            time.sleep(stillness)  # nothing of this process moves, as if it had been stopped
            raise failure
        return "an answer"

    return await patiently(attempt, asyncio.get_running_loop().time() + 0.05)


async def test_who_stood_still_beyond_the_deadline_asks_once_more() -> None:
    assert await _patiently_after(1.3) == "an answer"


async def test_a_store_that_did_not_answer_in_time_is_unavailable() -> None:
    with pytest.raises(StorageUnavailable):
        await _patiently_after(0.1)
