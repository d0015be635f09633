"""Credentials: who stands behind what a request presents, as the store said a moment ago.

What opened something is remembered for a second, under its digest, so that a busy caller costs one look-up a second;
what opens nothing is asked for again each time. That a token was used is written behind, at most once a minute.
What an identity provider has signed is its to judge; whoever is in the list of administrators is one, whatever it says.
Invariant: nobody is known for longer than a second, so a revocation is heeded by every process within one; and where
the store does not answer, nobody is known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from innkeeper.core.errors import InnkeeperError
from innkeeper.core.identity import Caller, Role
from innkeeper.core.times import Instant
from innkeeper.core.tokens import JWT, MAX_JWT, SESSION_TEXT, TEXT, Refusal, Token
from innkeeper.ports.accounts import AdminReader
from innkeeper.ports.issuers import Issuer, Vouched
from innkeeper.services.tokens import Digests, Tokens

_logger = logging.getLogger(__name__)

LIFETIME = 1.0
MAX_KNOWN = 10_000
TOUCH_EVERY = 60 * 1_000_000


class Known(NamedTuple):
    """What was found, and until when that may be believed."""

    until: float
    caller: Caller
    token: Token | None = None
    expires_at: Instant | None = None


class Credentials:
    """Belongs to one event loop. `clock` counts seconds and never goes back; `now` is the time of day.

    `issuer` is who signs tokens, and `admins` the list of administrators, where there are such.
    """

    def __init__(
        self,
        *,
        tokens: Tokens,
        now: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        issuer: Issuer | None = None,
        admins: AdminReader | None = None,
    ) -> None:
        self._tokens = tokens
        self._issuer = issuer
        self._admins = admins
        self._digests = Digests()  # these stay here, and a key would cost more than all else
        self._now = now
        self._clock = clock
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._asked: dict[str, asyncio.Task[Caller | Refusal]] = {}
        self._touched: OrderedDict[str, Instant] = OrderedDict()
        self._used: dict[str, Instant] = {}
        self._writing: asyncio.Task[None] | None = None

    def has_known(self, text: str) -> bool:
        """Whether somebody was known by this credential, now or some time ago."""
        return self._digests(text) in self._known

    async def caller(self, text: str) -> Caller | Refusal:
        """Who comes with a token, with a session's, or with what an identity provider signed.

        Raises: StorageUnavailable.
        """
        digest = self._digests(text)
        known = self._known.get(digest)
        if known is not None and known.until > self._clock():
            return self._recalled(known)
        if not is_credential(text):
            return Refusal.UNKNOWN
        asked = self._asked.get(digest)
        if asked is None:  # those who come meanwhile wait for the same answer
            asked = self._asked[digest] = asyncio.get_running_loop().create_task(self._ask(text, digest))
            asked.add_done_callback(_heed)
        return await asyncio.shield(asked)

    async def again(self, text: str) -> Caller | Refusal:
        """As `caller`, by what is so now and not by what was a moment ago."""
        digest = self._digests(text)
        if (known := self._known.get(digest)) is not None:
            self._known[digest] = known._replace(until=0.0)
        return await self.caller(text)

    def _recalled(self, known: Known) -> Caller | Refusal:
        now = Instant(self._now())
        if known.expires_at is not None and now >= known.expires_at:
            return Refusal.EXPIRED
        if known.token is not None:
            self._note(known.token, now)
        return known.caller

    async def _ask(self, text: str, digest: str) -> Caller | Refusal:
        until = self._clock() + LIFETIME  # what is read was true later than this
        try:
            if SESSION_TEXT.fullmatch(text) is not None:
                guest = await self._tokens.guest(text)
                return Refusal.UNKNOWN if guest is None else self._learn(digest, Known(until, guest))
            if TEXT.fullmatch(text) is None:
                return await self._ask_issuer(text, digest, until)
            token = await self._tokens.validate(text)
            if isinstance(token, Refusal):
                return token
            return self._learn(digest, Known(until, token.caller, token, token.expires_at))
        finally:
            del self._asked[digest]

    async def _ask_issuer(self, text: str, digest: str, until: float) -> Caller | Refusal:
        vouched = Refusal.UNKNOWN if self._issuer is None else await self._issuer.vouch(text)
        if isinstance(vouched, Refusal):
            return vouched
        caller = replace(vouched.caller, role=Role.ADMIN) if await self._is_admin(vouched) else vouched.caller
        return self._learn(digest, Known(until, caller, None, vouched.expires_at))

    async def _is_admin(self, vouched: Vouched) -> bool:
        if self._admins is None or vouched.caller.role is Role.ADMIN:
            return False
        if await self._admins.find(workos_id=vouched.subject) is not None:
            return True
        return vouched.email is not None and await self._admins.find(email=vouched.email) is not None

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
                await self._tokens.touch(used)
            except InnkeeperError as error:
                _logger.warning("when tokens were used last could not be stored: %s", error.message)

    async def close(self) -> None:
        """Wait for what is being written, and ask nobody any more; the store closes next."""
        if self._writing is not None:
            await asyncio.wait({self._writing})
        if self._issuer is not None:
            await self._issuer.close()


def is_credential(text: str) -> bool:
    """Whether a text is worth looking up: a token, a session's, or what an identity provider may have signed."""
    if TEXT.fullmatch(text) is not None or SESSION_TEXT.fullmatch(text) is not None:
        return True
    return len(text) <= MAX_JWT and JWT.fullmatch(text) is not None


def _heed(asked: asyncio.Task[Caller | Refusal]) -> None:
    """Whoever asked may have left; then nobody else looks at what went wrong."""
    if not asked.cancelled():
        asked.exception()
