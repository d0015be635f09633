"""Patience: a time-out that costs nothing where nothing is waited for."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Generator
from functools import partial
from typing import Any


async def within(seconds: float, work: Awaitable[Any]) -> Any:
    """What comes of `work`. What is done at once, as most is, needs no timer, which would cost more than it.

    Raises: TimeoutError.
    """
    steps = work.__await__()
    try:
        first = next(steps)
    except StopIteration as stop:
        return stop.value
    async with asyncio.timeout(seconds):
        return await _rest(first, steps)


@types.coroutine
def _rest(asked: Any, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Go on with what has begun, and has `asked` for something to wait for."""
    while True:
        try:
            told = yield asked
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:  # noqa: BLE001 - it is for whoever is waited for
            go_on = partial(steps.throw, error)
        else:
            go_on = partial(steps.send, told)
        try:
            asked = go_on()
        except StopIteration as stop:
            return stop.value
