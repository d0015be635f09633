"""Claims: idempotency keys. What a request makes is written together with its key, so that it is made once.

A claim is its owner's, and is kept for `LIFETIME`. The same request again finds what the first one made.
"""

from __future__ import annotations

from dataclasses import dataclass

from innkeeper.core.times import Instant

LIFETIME = 24 * 60 * 60 * 1_000_000
"""Microseconds for which a key is remembered."""

MAX_KEY = 255
"""Characters of a key."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A key, and the digest of the request that bears it."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim as it is stored. `subject` is the id of what was made; `answer` the body, where it was known before."""

    key: str
    fingerprint: str
    subject: str
    created_at: Instant
    answer: bytes | None = None
