"""Vigils: a stream that stays open is over once its credential opens it no more.

A request is admitted once, and what it opened may go on for days; so whoever keeps a stream open is asked for again,
once for all streams of one credential. The store's being away ends nothing.
Invariant: who has been revoked, or is less than who opened the stream, watches for a second longer at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from innkeeper.core.errors import InnkeeperError, Unauthorized
from innkeeper.core.identity import Caller
from innkeeper.core.tokens import Refusal
from innkeeper.http.presenting import CREDENTIAL
from innkeeper.services.credentials import Credentials

_logger = logging.getLogger(__name__)

_SECONDS = 0.8
ENDED = "The credential of this stream has been revoked or has expired."
CHANGED = "The credential of this stream does not allow what it did when the stream was opened; open it again."

OnEnd = Callable[[InnkeeperError], None]


class Vigils:
    """Of one app. `start` starts what is not running yet, and returns it."""

    def __init__(self, start: Callable[[], Awaitable[Any]]) -> None:
        self._start = start
        self._open: dict[str, set[tuple[OnEnd, Caller]]] = {}
        self._watches: dict[str, asyncio.TimerHandle | asyncio.Task[None]] = {}

    @contextlib.contextmanager
    def over(self, scope: Any, caller: Caller, on_end: OnEnd) -> Iterator[None]:
        """While a stream of this request is open; `on_end` is called, perhaps more than once, if that must end."""
        text: str | None = scope.get(CREDENTIAL)
        if text is None:
            yield
            return
        watching = self._open.setdefault(text, set())
        watching.add((on_end, caller))
        if text not in self._watches:  # most streams are over before anybody has to be asked
            self._watches[text] = asyncio.get_running_loop().call_later(_SECONDS, self._begin, text)
        try:
            yield
        finally:
            watching.discard((on_end, caller))
            if not watching and self._open.get(text) is watching:
                del self._open[text]
                self._watches.pop(text).cancel()

    def _begin(self, text: str) -> None:
        self._watches[text] = asyncio.get_running_loop().create_task(self._watch(text))

    async def _watch(self, text: str) -> None:
        """Ask for a credential again and again, and end what it had opened and opens no more.

        It goes on as long as anything is open: one more may be opened by who was let in a moment before.
        """
        while True:
            await self._look(text)
            await asyncio.sleep(_SECONDS)

    async def _look(self, text: str) -> None:
        try:
            credentials: Credentials = (await self._start()).credentials
            found = await credentials.again(text)
        except InnkeeperError:
            return
        except Exception:
            _logger.exception("whether a credential still opens its streams could not be found out; they are ended")
            found = Refusal.UNKNOWN
        for on_end, caller in list(self._open.get(text, ())):
            if found != caller:
                on_end(Unauthorized(ENDED if isinstance(found, Refusal) else CHANGED))
