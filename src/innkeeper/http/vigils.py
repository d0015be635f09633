"""Vigils: a stream that stays open is over once its credential opens nothing any more.

A request is admitted once, and what it opened may go on for days; so whoever keeps a stream open is asked for again,
once for all streams of one credential. The store's being away ends nothing.
Invariant: who has been revoked watches for a second longer at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from innkeeper.core.errors import InnkeeperError, Unauthorized
from innkeeper.core.identity import Caller
from innkeeper.core.tokens import Refusal
from innkeeper.http.presenting import HEADERS, presented, presented_in_subprotocols
from innkeeper.services.credentials import Credentials

_SECONDS = 0.8
ENDED = "The credential of this stream has been revoked or has expired."

OnEnd = Callable[[InnkeeperError], None]


class Vigils:
    """Of one app. `start` starts what is not running yet, and returns it."""

    def __init__(self, start: Callable[[], Awaitable[Any]]) -> None:
        self._start = start
        self._open: dict[str, set[OnEnd]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @contextlib.contextmanager
    def over(self, scope: Any, caller: Caller, on_end: OnEnd) -> Iterator[None]:
        """While a stream of this request is open; `on_end` is called if that must end."""
        sent = [(name, value) for name, value in scope["headers"] if name in HEADERS]
        found = presented(sent) | presented_in_subprotocols(scope)
        if caller.is_local or len(found) != 1:
            yield
            return
        (one,) = found
        watching = self._open.setdefault(one.text, set())
        watching.add(on_end)
        if one.text not in self._tasks:
            self._tasks[one.text] = asyncio.get_running_loop().create_task(self._watch(one.text))
        try:
            yield
        finally:
            watching.discard(on_end)
            if not watching and self._open.get(one.text) is watching:
                del self._open[one.text]
                self._tasks.pop(one.text).cancel()

    async def _watch(self, text: str) -> None:
        """Ask for a credential again and again, and end what it had opened when it opens nothing any more."""
        while True:
            await asyncio.sleep(_SECONDS)
            try:
                credentials: Credentials = (await self._start()).credentials
                found = await credentials.again(text)
            except InnkeeperError:
                continue
            if isinstance(found, Refusal):
                for on_end in list(self._open.get(text, ())):
                    on_end(Unauthorized(ENDED))
                return
