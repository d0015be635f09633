"""Waiting for so long and no longer, whatever is waited for."""

from __future__ import annotations

import asyncio

import pytest

from innkeeper.http.patience import within


async def said(text: str, *waits: float) -> str:
    for seconds in waits:
        await asyncio.sleep(seconds)
    return text


@pytest.mark.parametrize("waits", [(), (0,), (0, 0.001, 0)])
async def test_what_comes_in_time_is_handed_on(waits: tuple[float, ...]) -> None:
    assert await within(5, said("Hello", *waits)) == "Hello"


@pytest.mark.parametrize("waits", [(), (0.001,)])
async def test_what_goes_wrong_is_raised_as_it_is(waits: tuple[float, ...]) -> None:
    async def fail() -> None:
        await said("", *waits)
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await within(5, fail())


async def test_what_takes_too_long_is_cancelled_and_may_clean_up() -> None:
    cleaned = []

    async def wait() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    with pytest.raises(TimeoutError):
        await within(0.01, wait())
    assert cleaned == ["up"]


async def test_whoever_is_cancelled_meanwhile_is_cancelled_and_so_is_what_it_waited_for() -> None:
    ends = []

    async def wait() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    waiting = asyncio.create_task(within(30, wait()))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ends == ["cancelled"]


async def test_what_is_collected_while_it_waits_is_closed() -> None:
    ends = []

    async def wait() -> None:
        try:
            await asyncio.Future()
        finally:
            ends.append("closed")

    waiting = within(30, wait())
    waiting.send(None)
    waiting.close()
    assert ends == ["closed"]
