"""Files: what clients upload, and the files of workspaces, by version. Their contents are blobs (`ports.blobs`).

A workspace belongs to a session or to an agent. Values only: where contents lie, and who may see them, others know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant

RESERVED_FOR = 60 * 60 * 1_000_000
"""Microseconds for which a blob may be written before it is taken for rubbish."""

PlaceKind = Literal["session", "agent"]


@dataclass(frozen=True, slots=True)
class Blob:
    """Contents that have been written and that no row names yet; they are rubbish from `due_at` on."""

    id: str
    size: int
    digest: str
    due_at: Instant
    head: bytes = b""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that somebody uploaded; `digest` is the SHA-256 of its contents in hexadecimal."""

    id: str
    owner: Owner
    user_id: str
    name: str
    purpose: str
    media_type: str
    size: int
    digest: str
    blob: str
    created_at: Instant
    expires_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Whose workspace it is: a session's, by its key, or an agent's, by its name; `organization` pays for the room."""

    kind: PlaceKind
    key: str
    organization: str


@dataclass(frozen=True, slots=True)
class WorkspaceFile:
    """One version of a file. `version_count` is how many are kept, where that was asked for."""

    path: str
    version: int
    media_type: str
    size: int
    digest: str
    blob: str
    author: str
    created_at: Instant
    is_current: bool = True
    version_count: int = 1

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]
