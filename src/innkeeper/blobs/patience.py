"""Patience: how long a store behind a network is waited for, and what becomes of whoever comes while it is silent.

A request that takes too long is given up. Where the store has answered nobody in that time it is taken to be out of
order, and for a while nobody else waits for it in vain: who reads many files would, one after the other.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_PAUSE = 5.0


class Patience:
    """Waits `seconds` for each request, and refuses others for `pause` seconds once none has been answered."""

    def __init__(self, seconds: float, pause: float = _PAUSE) -> None:
        self._seconds = seconds
        self._pause = pause
        self._answered_at = self._refused_until = -math.inf

    async def wait(self, request: Coroutine[Any, Any, T], is_answer: Callable[[BaseException], bool]) -> T:
        """What the request returns. `is_answer` says whether the store has answered with this error.

        Raises: TimeoutError, for a request that is not sent as well; what the request raises.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        if began < self._refused_until:
            request.close()
            raise TimeoutError
        try:
            async with asyncio.timeout(self._seconds) as limit:
                answer = await request
        except BaseException as error:
            if is_answer(error):
                self._heard(clock())
            elif limit.expired() and self._answered_at < began:
                self._refused_until = clock() + self._pause
            raise
        self._heard(clock())
        return answer

    def _heard(self, now: float) -> None:
        self._answered_at, self._refused_until = now, -math.inf
