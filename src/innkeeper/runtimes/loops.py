"""Loops: what belongs to one event loop, such as a client with open connections, and ends with it.

A process may run several loops, one after the other or at once (tests do, and so do isolated agents).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Shelf(Generic[T]):
    values: dict[str, T] = field(default_factory=dict)
    keeper: AsyncGenerator[None] | None = None


class LoopBound(Generic[T]):
    """Values by name, each built once for an event loop and closed when the loop ends."""

    def __init__(self, close: Callable[[T], Awaitable[None]]) -> None:
        self._close = close
        self._shelves: dict[asyncio.AbstractEventLoop, _Shelf[T]] = {}

    async def get(self, name: str, build: Callable[[], T]) -> T:
        """The running loop's value of that name; `build` is called in a thread, for it may import or read files."""
        shelf = await self._shelf()
        if name not in shelf.values:
            built = await asyncio.to_thread(build)
            shelf.values.setdefault(name, built)  # the first of two builders wins
        return shelf.values[name]

    async def close(self) -> None:
        """Close the running loop's values now."""
        shelf = self._shelves.pop(asyncio.get_running_loop(), None)
        if shelf is not None and shelf.keeper is not None:
            await shelf.keeper.aclose()

    async def _shelf(self) -> _Shelf[T]:
        for loop in [loop for loop in self._shelves if loop.is_closed()]:
            del self._shelves[loop]
        loop = asyncio.get_running_loop()
        if loop not in self._shelves:
            shelf = self._shelves[loop] = _Shelf[T]()
            shelf.keeper = self._kept(shelf)
            await anext(shelf.keeper)
        return self._shelves[loop]

    async def _kept(self, shelf: _Shelf[T]) -> AsyncGenerator[None]:
        # A loop ends the generators that are still open before it closes: the one hook that it offers.
        try:
            yield
        finally:
            for value in shelf.values.values():
                await self._close(value)
