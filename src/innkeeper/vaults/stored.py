"""Tokens in the store itself, where whatever accompanies them is in the same commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from innkeeper.core.administration import ForgetToken
from innkeeper.core.control_changes import CreateToken, RevokeToken, TouchTokens
from innkeeper.core.outcomes import Repeated
from innkeeper.core.times import Instant
from innkeeper.core.tokens import Token
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import TokenReader
from innkeeper.ports.tokens import Accompanying


class StoredVault:
    """Implements `ports.tokens.TokenVault`."""

    def __init__(self, journal: Journal, tokens: TokenReader) -> None:
        self._journal = journal
        self._tokens = tokens

    async def create(self, token: Token, digest: str, accompanying: Accompanying = ()) -> str | None:
        outcomes = await self._journal.commit((*accompanying, CreateToken(token, digest)))
        return outcomes[-1].claimed.subject if isinstance(outcomes[-1], Repeated) else None

    async def revoke(self, token_id: str, now: Instant, accompanying: Accompanying = ()) -> bool:
        if await self._tokens.find(token_id) is None:  # and so it remains: no token is ever removed
            return False
        await self._journal.commit((*accompanying, RevokeToken(token_id, now)))
        return True

    async def forget(self, token_id: str, stand_in: str, now: Instant) -> bool:
        if await self._tokens.find(token_id) is None:
            return False
        await self._journal.commit((ForgetToken(token_id, stand_in, now),))
        return True

    async def find(self, token_id: str) -> tuple[Token, str] | None:
        return await self._tokens.find(token_id)

    async def page(
        self, *, limit: int, after: str | None = None, user: str | None = None, organization: str | None = None
    ) -> tuple[Sequence[Token], bool]:
        return await self._tokens.page(limit=limit, after=after, user=user, organization=organization)

    async def touch(self, used: Mapping[str, Instant]) -> None:
        await self._journal.commit((TouchTokens(used),))

    async def close(self) -> None:
        """The store is not its own to close."""
