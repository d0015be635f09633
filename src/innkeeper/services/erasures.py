"""Erasures: everything that is stored of one user goes, in the store, in its vault of tokens and where logs are copied.

It is done a part at a time, beside whatever else happens, and may be begun again where it was broken off.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from innkeeper.core.administration import Derived, ForgetUser
from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant
from innkeeper.ports.accounts import UserReader
from innkeeper.ports.chat_logs import ChatLogSink
from innkeeper.ports.journal import Journal
from innkeeper.ports.tokens import TokenVault
from innkeeper.services.audit import Audit

_AT_ONCE = 500
_REVOKED_SECONDS = 1.1
"""For a second, servers admit whom they knew: until then more may come in of who is forgotten."""
_PAUSE_SECONDS = 0.01
_LAST_COPIES_SECONDS = 1.0
"""How long a row may be on its way to the logging database when it is erased here."""


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows went or lost the name; whether nothing can be left in the free space of the store's files."""

    rows: int
    is_scrubbed: bool


class Erasures:
    """Forgets users."""

    def __init__(
        self,
        *,
        journal: Journal,
        users: UserReader,
        tokens: TokenVault,
        audit: Audit,
        now: Callable[[], int],
        new_id: Callable[[], str],
        scrub: Callable[[], Awaitable[bool]],
        sink: ChatLogSink | None = None,
    ) -> None:
        """`scrub` removes what was deleted from the store's files, too, and tells whether it could."""
        self._journal = journal
        self._users = users
        self._tokens = tokens
        self._audit = audit
        self._now = now
        self._new_id = new_id
        self._scrub = scrub
        self._sink = sink

    async def places(self, user: str) -> Sequence[str]:
        """The organizations in which something is stored of somebody of this name."""
        return await self._users.organizations(user)

    async def forget(self, actor: Owner, user: str, organization: str | None = None) -> Erased:
        """Erase a user of an organization, or of each; the audit log tells that it was done, and of whom.

        Raises: StorageUnavailable; what was not erased then is by the next call.
        """
        entry = self._audit.entry(actor, "user.forget", "user", user, {"organization": organization})
        await self._audit.write(entry)
        stand_ins: defaultdict[str, str] = defaultdict(lambda: f"forgotten-{self._new_id()[-8:]}")
        if await self._forget_tokens(user, organization, stand_ins):
            await asyncio.sleep(_REVOKED_SECONDS)
        total = 0
        places = {*await self.places(user), *stand_ins} if organization is None else {organization}
        for place in sorted(places):
            total += await self._forget_in(place, user, stand_ins[place])
        if self._sink is not None:
            total += await self._forget_copies(self._sink, user, organization)
        return Erased(total, await self._scrub())

    async def _forget_tokens(self, user: str, organization: str | None, stand_ins: Mapping[str, str]) -> int:
        """How many there were. The vault may be another than the store, which may still hold those of before."""
        count, after, has_more = 0, None, True
        while has_more:
            page, has_more = await self._tokens.page(limit=200, after=after, user=user, organization=organization)
            for token in page:
                await self._tokens.forget(token.id, stand_ins[token.owner.organization], Instant(self._now()))
                count += token.revoked_at is None
            after = page[-1].id if page else None
        return count

    async def _forget_in(self, organization: str, user: str, stand_in: str) -> int:
        total = 0
        while count := await self._forget_some(organization, user, stand_in):
            total += count
            await asyncio.sleep(_PAUSE_SECONDS)
        return total

    async def _forget_some(self, organization: str, user: str, stand_in: str) -> int:
        change = ForgetUser(user, organization, stand_in, Instant(self._now()), _AT_ONCE)
        (outcome,) = await self._journal.commit((change,))
        assert isinstance(outcome, Derived), "forgetting is answered with how many rows there were"
        return outcome.count

    async def _forget_copies(self, sink: ChatLogSink, user: str, organization: str | None) -> int:
        total = 0
        for pause in (_LAST_COPIES_SECONDS, 0.0):
            while count := await sink.forget_user(user, organization, _AT_ONCE):
                total += count
            await asyncio.sleep(pause)
        await sink.close()
        return total
