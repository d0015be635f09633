"""Issuers: identity providers, whose signed tokens say who somebody is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from innkeeper.core.identity import Caller
from innkeeper.core.times import Instant
from innkeeper.core.tokens import Refusal


@dataclass(frozen=True, slots=True)
class Vouched:
    """Whom an issuer vouches for, until when; `email` is an address that it has verified."""

    caller: Caller
    subject: str
    expires_at: Instant
    email: str | None = None


class Issuer(Protocol):
    """Reads what it has signed.

    - Only what bears a signature by one of its keys, of a kind that needs a private key, vouches for anybody.
    - `EXPIRED` is said of what it has signed only; whatever else is wrong is `UNKNOWN`.
    - Where its keys cannot be fetched and those that are known do not fit, it fails with `StorageUnavailable`.
    """

    async def vouch(self, text: str) -> Vouched | Refusal:
        """Whom this token vouches for.

        Raises: StorageUnavailable.
        """

    async def close(self) -> None:
        """Ask it for nothing any more."""
