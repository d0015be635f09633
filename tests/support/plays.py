"""Looking at what a runtime told: its text, its events of one kind, and its end when it is cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from innkeeper.core.context import RunContext
from innkeeper.core.events import AgentEvent, TextDelta
from innkeeper.core.messages import Message
from innkeeper.core.runs import Turn
from innkeeper.ports.agents import Runtime


def text_of(events: list[AgentEvent]) -> str:
    """The texts joined together."""
    return "".join(event.content for event in events if isinstance(event, TextDelta))


def only(kind: type[Any], events: list[AgentEvent]) -> list[Any]:
    """The events of one kind."""
    return [event for event in events if isinstance(event, kind)]


async def cancelled_after(kind: type[Any], runtime: Runtime, context: RunContext, said: str = "go") -> None:
    """Run a turn, cancel it at its first event of that kind, and see the cancellation come through."""
    seen = asyncio.Event()

    async def read() -> None:
        async for event in runtime.run(Turn((Message("user", said),)), context):
            if isinstance(event, kind):
                seen.set()

    reading = asyncio.create_task(read())
    await asyncio.wait_for(seen.wait(), 30)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
