"""Credentials: who stands behind what a request presents, as the store said a moment ago.

What opened something is remembered for a second, under its digest, so that a busy caller costs one look-up a second;
what opens nothing is asked for again each time. That a token was used is written behind, at most once a minute.
Invariant: nobody is known for longer than a second, so a revocation is heeded by every process within one; and where
the store does not answer, nobody is known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from innkeeper.core.control_changes import TouchTokens
from innkeeper.core.errors import InnkeeperError
from innkeeper.core.identity import Caller
from innkeeper.core.times import Instant
from innkeeper.core.tokens import SESSION_TEXT, TEXT, Refusal, Token
from innkeeper.ports.journal import Journal
from innkeeper.services.tokens import Digests, Tokens

_logger = logging.getLogger(__name__)

LIFETIME = 1.0
MAX_KNOWN = 10_000
TOUCH_EVERY = 60 * 1_000_000

Known = tuple[float, Caller, Token | None]


class Credentials:
    """Belongs to one event loop. `clock` counts seconds and never goes back; `now` is the time of day."""

    def __init__(
        self,
        *,
        tokens: Tokens,
        journal: Journal,
        now: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._journal = journal
        self._digests = Digests()  # these stay here, and a key would cost more than all else
        self._now = now
        self._clock = clock
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._asked: dict[str, asyncio.Task[Caller | Refusal]] = {}
        self._touched: OrderedDict[str, Instant] = OrderedDict()
        self._used: dict[str, Instant] = {}
        self._writing: asyncio.Task[None] | None = None

    async def caller(self, text: str) -> Caller | Refusal:
        """Who comes with a token, or with a session's.

        Raises: StorageUnavailable.
        """
        digest = self._digests(text)
        known = self._known.get(digest)
        if known is not None and known[0] > self._clock():
            return self._recalled(known)
        if TEXT.fullmatch(text) is None and SESSION_TEXT.fullmatch(text) is None:
            return Refusal.UNKNOWN
        asked = self._asked.get(digest)
        if asked is None:  # those who come meanwhile wait for the same answer
            asked = self._asked[digest] = asyncio.get_running_loop().create_task(self._ask(text, digest))
            asked.add_done_callback(_heed)
        return await asyncio.shield(asked)

    def _recalled(self, known: Known) -> Caller | Refusal:
        _, caller, token = known
        if token is not None:
            now = Instant(self._now())
            if not token.is_valid_at(now):
                return Refusal.EXPIRED
            self._note(token, now)
        return caller

    async def _ask(self, text: str, digest: str) -> Caller | Refusal:
        until = self._clock() + LIFETIME  # what is read was true later than this
        try:
            if SESSION_TEXT.fullmatch(text) is not None:
                guest = await self._tokens.guest(text)
                return Refusal.UNKNOWN if guest is None else self._learn(digest, (until, guest, None))
            token = await self._tokens.validate(text)
            return token if isinstance(token, Refusal) else self._learn(digest, (until, token.caller, token))
        finally:
            del self._asked[digest]

    def _learn(self, digest: str, known: Known) -> Caller | Refusal:
        self._known[digest] = known
        self._known.move_to_end(digest)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return self._recalled(known)

    # when tokens were used last

    def _note(self, token: Token, now: Instant) -> None:
        if now - self._touched.get(token.id, 0) < TOUCH_EVERY or now - (token.last_used_at or 0) < TOUCH_EVERY:
            return
        self._touched[token.id] = self._used[token.id] = now
        self._touched.move_to_end(token.id)
        while len(self._touched) > MAX_KNOWN:
            self._touched.popitem(last=False)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        """Write what has been noted, and what is noted meanwhile."""
        while self._used:
            used, self._used = self._used, {}
            try:
                await self._journal.commit((TouchTokens(used),))
            except InnkeeperError as error:
                _logger.warning("when tokens were used last could not be stored: %s", error.message)

    async def close(self) -> None:
        """Wait for what is being written; the store closes next."""
        if self._writing is not None:
            await asyncio.wait({self._writing})


def _heed(asked: asyncio.Task[Caller | Refusal]) -> None:
    """Whoever asked may have left; then nobody else looks at what went wrong."""
    if not asked.cancelled():
        asked.exception()
