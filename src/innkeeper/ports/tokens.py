"""Where tokens are kept: in the store, or in a Redis. Only digests come this far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from innkeeper.core.administration import WriteAudit
from innkeeper.core.changes import KeepClaim
from innkeeper.core.times import Instant
from innkeeper.core.tokens import Token

Accompanying = Sequence[KeepClaim | WriteAudit]


class TokenVault(Protocol):
    """Keeps tokens.

    - What accompanies a change is in the store when the change holds, and never later; so nothing is done untold.
    - A change that was acknowledged is seen by everybody from then on.
    - Each method fails with `StorageUnavailable` where the vault does not answer, and none waits for long.
    """

    async def create(self, token: Token, digest: str, accompanying: Accompanying = ()) -> str | None:
        """Keep a token; `None`, or the id of the one that was made before in its place, by this claim or of this id.

        Raises: IdempotencyMismatch.
        """

    async def revoke(self, token_id: str, now: Instant, accompanying: Accompanying = ()) -> bool:
        """Whether there is such a token; it opens nothing from now on, and keeps the moment of the first revocation."""

    async def forget(self, token_id: str, stand_in: str, now: Instant) -> bool:
        """Whether there is such a token; it is revoked, has no name, and its user is called `stand_in` from now on."""

    async def find(self, token_id: str) -> tuple[Token, str] | None:
        """A token and the digest of its text, revoked and expired ones too."""

    async def page(
        self, *, limit: int, after: str | None = None, user: str | None = None, organization: str | None = None
    ) -> tuple[Sequence[Token], bool]:
        """Tokens, of that user and that organization, newest first, older than `after`; and whether there are more."""

    async def touch(self, used: Mapping[str, Instant]) -> None:
        """When tokens were used last; none is set back, and those that there are not are passed over."""

    async def close(self) -> None:
        """Let go of what it holds."""
