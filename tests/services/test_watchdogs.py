"""Watchdogs: what blocks an event loop is named, and nothing else is."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from innkeeper.services.watchdogs import Watchdog
from tests.support.sizes import within

BLOCKED = within(0.6, 2.0)
"""Seconds; on a busy machine the watchdog is late itself now and then, and blames nobody for that."""


@asynccontextmanager
async def watched() -> AsyncIterator[Watchdog]:
    watchdog = Watchdog()
    watchdog.start()
    await asyncio.sleep(0.1)
    yield watchdog
    watchdog.stop()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def block(seconds: float) -> None:
    time.sleep(seconds)


async def until(caplog: pytest.LogCaptureFixture, count: int) -> list[str]:
    async with asyncio.timeout(30):
        while len(told(caplog)) < count:
            await asyncio.sleep(0.01)
    return told(caplog)


async def test_the_line_that_blocks_is_named_once_and_its_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with watched():
        block(BLOCKED)
        blocked, free = await until(caplog, 2)
        line = block.__code__.co_firstlineno + 1
        assert f"blocked for more than 250 ms by {__file__}:{line} in block. " in blocked
        assert "isolated=True" in blocked and "asyncio.to_thread" in blocked
        lasted = re.search(r"it was blocked for ([\d.]+) s\.", free)
        assert lasted is not None and within(0.5, 0.1) <= float(lasted[1]) <= within(0.7, 6)


async def test_every_block_is_told_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    async with watched():
        for number in (1, 2, 3):
            block(within(0.4, 1.5))
            await until(caplog, 2 * number)
        assert len(told(caplog)) == 6


async def test_the_users_line_is_named_where_a_library_waits(caplog: pytest.LogCaptureFixture) -> None:
    async with watched():
        subprocess.run([sys.executable, "-c", "import time; time.sleep(1.5)"], check=True)
        blocked, _ = await until(caplog, 2)
        assert re.search(rf"by {__file__}:\d+ in test_the_users_line_is_named", blocked)


async def test_short_blocks_and_long_waits_are_nobodys_fault(caplog: pytest.LogCaptureFixture) -> None:
    async with watched():
        for _ in range(4):
            block(within(0.2, 0.1))
            await asyncio.sleep(0)
        await asyncio.sleep(0.6)
        assert told(caplog) == []


async def test_many_short_steps_are_not_a_block(caplog: pytest.LogCaptureFixture) -> None:
    async with watched():

        async def step() -> None:
            block(0.002)

        await asyncio.gather(*(step() for _ in range(400)))
        await asyncio.sleep(0.1)
        assert told(caplog) == []


async def test_nothing_is_told_after_the_watch_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    async with watched() as watchdog:
        watchdog.stop()
        block(0.5)
        await asyncio.sleep(0.1)
        assert told(caplog) == []


def test_the_watch_ends_with_its_loop() -> None:
    async def lives() -> None:
        Watchdog().start()

    before = threading.active_count()
    asyncio.run(lives())
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
