"""Tokens: credentials, of which only a digest is kept.

A token is `<id>.<secret>`: the id, `ik` and 16 of `[a-z0-9]`, is public and finds its row; the secret is 256 random
bits. Making and comparing them is the service's affair; nothing here is random or secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.times import Instant

ID = re.compile(r"ik[a-z0-9]{16}")
CODE = "code"
"""The scope of those who may register source code."""
IMPERSONATE = "impersonate"
"""The scope of those who may name other end users."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is stored; `expires_at` is `None` for one that holds for good."""

    id: str
    owner: Owner
    role: Role
    created_at: Instant
    scopes: frozenset[str] = frozenset()
    name: str = ""
    expires_at: Instant | None = None
    revoked_at: Instant | None = None
    last_used_at: Instant | None = None

    def is_valid_at(self, now: Instant) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def caller(self) -> Caller:
        return Caller(self.owner, self.role, self.scopes)
