"""Audit: what was done to the server, by whom, in a chain in which each entry vouches for all before it.

Invariant: an entry's digest covers everything that it says and the digest of the entry before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One administrative or security action, or its denial. `actor` is who did it.

    `number` counts from 1; it and the digests are given by the commit.
    """

    id: str
    actor: Owner
    action: str
    resource: str
    resource_id: str | None
    created_at: Instant
    metadata: Mapping[str, object] = field(default_factory=dict)
    number: int = 0
    previous: str = ""
    digest: str = ""


def audit_digest(entry: AuditEntry, number: int, previous: str, metadata: str) -> str:
    """The digest of an entry in its place; `metadata` is its JSON text as it is stored."""
    told = [
        number,
        previous,
        entry.id,
        entry.actor.organization,
        entry.actor.user,
        entry.action,
        entry.resource,
        entry.resource_id,
        metadata,
        entry.created_at,
    ]
    return hashlib.sha256(json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()
