"""Innkeeper with function agents, as a user would write it. The data folder comes from `INNKEEPER_DATA_DIR`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from innkeeper import create_app, register_agent

INTERVAL = 0.005
WORD = "word "


async def instant(messages: list[dict[str, Any]]) -> str:
    return "Hello! How can I help you today?"


async def hundred(messages: list[dict[str, Any]]) -> AsyncIterator[str]:
    for _ in range(100):
        yield WORD


async def paced(messages: list[dict[str, Any]]) -> AsyncIterator[str]:
    for _ in range(100):
        await asyncio.sleep(INTERVAL)
        yield WORD


async def stamped(messages: list[dict[str, Any]]) -> AsyncIterator[str]:
    """Its only word is when it was spoken; CLOCK_MONOTONIC is the same in every process."""
    yield str(time.monotonic_ns())


for agent in (instant, hundred, paced, stamped):
    register_agent(agent.__name__, agent)

app = create_app()
