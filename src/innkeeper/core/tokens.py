"""Tokens: credentials, of which only a digest is kept.

A token is `<id>.<secret>`: the id, `ik` and 16 of `[a-z0-9]`, is public, finds its row and sorts by age; the secret is
256 random bits. A session's token is `st_` and such a secret, and opens that session only. Making and comparing them
is the service's affair; nothing here is random or secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant

ID = re.compile(r"ik[a-z0-9]{16}")
TEXT = re.compile(r"(ik[a-z0-9]{16})\.[A-Za-z0-9_-]{43}")
SESSION_TEXT = re.compile(r"st_[A-Za-z0-9_-]{43}")
SESSION_PREFIX = "st_"
JWT = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""What an identity provider signed looks like; its first part is a JSON object."""
MAX_JWT = 12 * 1024
CODE = "code"
"""The scope of those who may register source code."""
OBSERVABILITY = "observability"
"""The scope of those who may read the server's logs, metrics and configuration."""
IMPERSONATE = "impersonate"
"""The scope of those who may name other end users."""
SCOPES = (CODE, OBSERVABILITY, IMPERSONATE)


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


class Refusal(StrEnum):
    """Why a token opens nothing. Only who has its secret is told that it was revoked or has expired."""

    UNKNOWN = "unknown"
    REVOKED = "revoked"
    EXPIRED = "expired"


def guest_of(session: Session) -> Caller:
    """The caller behind a session's token: its owner, within this session only."""
    return Caller(session.owner, Role.USER, session_key=session.key, session_id=session.id)
