"""Halls: how many processes of one program may live at a time, and those that wait for their session's next turn.

Whoever finds all places taken waits; a process that nobody uses makes room. Invariant: a hall belongs to one event
loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass

from innkeeper.runtimes.programs_folders import Folder
from innkeeper.runtimes.programs_processes import Process
from innkeeper.runtimes.programs_prompts import Place

_PATIENCE = 10.0


@dataclass(eq=False, slots=True)
class Kept:
    """A process that has had at least its beginning, what it has heard, and where it works."""

    process: Process
    folder: Folder
    digest: bytes = b""
    session_key: str | None = None
    rest: asyncio.TimerHandle | None = None


class Hall:
    def __init__(self, most: int, idle_seconds: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._most = most
        self._idle_seconds = idle_seconds
        self._taken = 0
        self._idle: OrderedDict[Place, Kept] = OrderedDict()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._leaving: set[asyncio.Task[None]] = set()

    async def enter(self, place: Place) -> Kept | None:
        """Take a place, with the process that is kept for the session, if there is one and it lives."""
        kept = self._idle.pop(place, None)
        if kept is not None:
            _disturb(kept)
            if kept.process.is_alive:
                return kept
            self.dismiss(kept)
            return None
        while self._taken >= self._most:
            if self._idle:
                _, oldest = self._idle.popitem(last=False)
                self.dismiss(oldest)
                self._taken -= 1
                break
            await self._room()
        self._taken += 1
        return None

    async def _room(self) -> None:
        waiter = self.loop.create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.cancelled():  # it had been called when it gave up
                self._call()
            raise

    def leave(self, place: Place, kept: Kept | None = None) -> None:
        """Give a place back, or let a process rest in it."""
        if kept is not None and kept.process.is_alive and place not in self._idle:
            self._idle[place] = kept
            kept.rest = self.loop.call_later(self._idle_seconds, self._retire, place, kept)
        else:
            self._taken -= 1
            if kept is not None:
                self.dismiss(kept)
        self._call()

    def _call(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _retire(self, place: Place, kept: Kept) -> None:
        if self._idle.get(place) is kept:
            del self._idle[place]
            self._taken -= 1
            self.dismiss(kept)
            self._call()

    def forget(self, session_key: str) -> None:
        """A session has been deleted."""
        for place, kept in list(self._idle.items()):
            if kept.session_key == session_key:
                self._retire(place, kept)

    def dismiss(self, kept: Kept) -> None:
        """End a process; its folder is left when nothing of it lives any more."""
        _disturb(kept)
        kept.process.end()
        task = self.loop.create_task(_left(kept))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def abandon(self) -> None:
        """End what rests; the event loop is gone."""
        while self._idle:
            self._idle.popitem()[1].process.end()

    async def close(self) -> None:
        """End what rests, and return when all that has been dismissed has left its folder."""
        for place, kept in list(self._idle.items()):
            self._retire(place, kept)
        while self._leaving:
            await asyncio.wait(set(self._leaving))


def _disturb(kept: Kept) -> None:
    if kept.rest is not None:
        kept.rest.cancel()
        kept.rest = None


async def _left(kept: Kept) -> None:
    try:
        if await kept.process.ended(_PATIENCE) is None:
            kept.process.kill()
    finally:
        await kept.folder.leave()
