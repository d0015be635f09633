"""Waiting for work in threads that uses a descriptor: whoever is cancelled goes on only once the thread is done.

A descriptor that is closed while a thread is about to write to it may be another file's by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: asyncio.Future[T]) -> T:
    """What the work returns. Raises: what it raises; CancelledError, when it is over."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((work,))
        raise


async def opened(in_thread: Callable[[Callable[[], None]], Awaitable[None]], opening: Callable[[], int]) -> int:
    """A descriptor, opened in a thread; it is closed where nobody waits for it any more."""
    descriptors: list[int] = []
    try:
        await in_thread(lambda: descriptors.append(opening()))
    except asyncio.CancelledError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return descriptors[0]
