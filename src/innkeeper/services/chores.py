"""Chores: work that is done again and again behind everything else, with a pause after each time.

What it is, its owner knows; here is only when it is done, and that no failure is the last of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from innkeeper.core.errors import InnkeeperError

_logger = logging.getLogger(__name__)


class Chore:
    """Works from `open` until `close`: first after `first` seconds, then `every` so many. The log names it `called`."""

    def __init__(self, called: str, work: Callable[[], Awaitable[object]], *, first: float, every: float) -> None:
        self._called = called
        self._work = work
        self._first = first
        self._every = every
        self._working: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin."""
        self._working = asyncio.create_task(self._work_on())

    async def close(self) -> None:
        """Stop, in the midst of it where it is under way; idempotent."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])

    async def _work_on(self) -> None:
        await asyncio.sleep(self._first)
        while True:
            try:
                await self._work()
            except InnkeeperError as error:
                _logger.warning("%s is tried again later: %s", self._called, error)
            except Exception:
                _logger.exception("%s failed", self._called)
            await asyncio.sleep(self._every)
