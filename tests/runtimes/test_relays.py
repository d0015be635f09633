"""Relays: what a framework's run may rely on while somebody reads it, and when nobody does any more."""

from __future__ import annotations

import asyncio

from innkeeper.core.events import TextDelta
from innkeeper.runtimes.relays import Emit, relayed
from innkeeper.testing.runtimes import new_context


async def test_a_run_catches_up_when_its_reader_comes_back_for_more() -> None:
    told: list[str] = []

    async def produce(emit: Emit) -> None:
        await emit(TextDelta("a"))
        await emit(TextDelta("b"))
        await emit.caught_up()
        told.append("caught up")

    async for event in relayed(produce, new_context()):
        assert isinstance(event, TextDelta)
        await asyncio.sleep(0.01)  # the run has time to go on, and must not
        told.append(event.content)
    assert told == ["a", "b", "caught up"]


async def test_whoever_waits_for_a_reader_that_has_left_goes_on() -> None:
    waiting: list[asyncio.Task[None]] = []

    async def produce(emit: Emit) -> None:
        await emit(TextDelta("a"))
        await emit(TextDelta("b"))
        waiting.append(asyncio.create_task(emit.caught_up()))  # as a thread does that the run has started
        await asyncio.Event().wait()

    events = relayed(produce, new_context())
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]  # it is a generator
    await asyncio.wait_for(waiting[0], 30)
