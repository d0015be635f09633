"""Quotas: how many runs one caller may have at once, and how many may wait in the background.

Runs whose clients wait are counted in this process, from before they are accepted until they end. Those in the
background are the queue's: it is bounded, and of one caller it takes a tenth, so that nobody fills it for all. The
local user is outside what is counted for one caller.
"""

from __future__ import annotations

from collections.abc import Callable

from innkeeper.core.errors import RateLimited, TooBusy
from innkeeper.core.identity import Caller, Owner
from innkeeper.ports.readers import RunReader

SHARE = 10
"""One caller may fill this fraction of the queue."""
_QUEUE_SECONDS = 5

_Places = dict[tuple[str, str], int]
Leave = Callable[[object], None]
"""Gives a place back; called once, with anything."""


class Quotas:
    """`at_once` is for runs whose clients wait, `queued` for those in the background."""

    def __init__(self, runs: RunReader, *, at_once: int | None, queued: int) -> None:
        self._runs = runs
        self._at_once = at_once
        self._queued = queued
        self._places: _Places = {}
        self._queueing: _Places = {}

    def take(self, caller: Caller) -> Leave:
        """A place for a run. Raises: RateLimited."""
        if caller.is_local or self._at_once is None:
            return uncounted
        whose = _key(caller.owner)
        if self._places.get(whose, 0) >= self._at_once:
            raise RateLimited(f"{self._at_once} runs of this user are under way or wait already. Try again later.")
        return _taken(self._places, whose)

    async def queue(self, caller: Caller) -> Leave:
        """A place in the queue, to be given back once the store has the run. Raises: RateLimited, TooBusy."""
        whose, queueing = _key(caller.owner), self._queueing
        leave = _taken(queueing, whose)
        try:
            waiting, own = await self._runs.count_queued(caller.owner)
            if waiting + sum(queueing.values()) > self._queued:
                raise TooBusy(
                    f"{self._queued} runs wait in the background already. Try again later.", retry_after=_QUEUE_SECONDS
                )
            most = max(1, self._queued // SHARE)
            if own + queueing[whose] > most and not caller.is_local:
                raise RateLimited(
                    f"{most} runs of this user wait in the background already. Try again later.",
                    retry_after=_QUEUE_SECONDS,
                )
        except BaseException:
            leave(None)
            raise
        return leave


def _key(owner: Owner) -> tuple[str, str]:
    """Of an owner; cheaper to look up than it."""
    return owner.organization, owner.user


def _taken(places: _Places, whose: tuple[str, str]) -> Leave:
    places[whose] = places.get(whose, 0) + 1

    def leave(_: object) -> None:
        left = places[whose] - 1
        if left:
            places[whose] = left
        else:
            del places[whose]

    return leave


def uncounted(_: object) -> None:
    """Gives back the place of a run that takes none."""
