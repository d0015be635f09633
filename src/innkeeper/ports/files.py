"""What may be read of files and workspaces. Every read names whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from innkeeper.core.files import Place, StoredFile, WorkspaceFile
from innkeeper.core.identity import Caller
from innkeeper.core.times import Instant


class FileReader(Protocol):
    """Files whose time is over at `now` are not there. A caller finds its own only, also an admin."""

    async def find(self, caller: Caller, file_id: str, now: Instant) -> StoredFile | None: ...

    async def page(
        self,
        caller: Caller,
        now: Instant,
        *,
        limit: int,
        after: str | None = None,
        purpose: str | None = None,
        is_ascending: bool = False,
    ) -> tuple[Sequence[StoredFile], bool]:
        """Newest first, or oldest first, beyond the id `after`; and whether there are more."""

    async def room_of(self, organization: str) -> int:
        """How many bytes of files an organization keeps, old versions included."""


class WorkspaceReader(Protocol):
    """Whoever asks has found the place for its caller."""

    async def all(self, place: Place) -> Sequence[WorkspaceFile]:
        """The current versions by path, each with how many versions are kept."""

    async def find(self, place: Place, path: str, version: int | None = None) -> WorkspaceFile | None:
        """A version of a file, or else its current one."""

    async def versions(self, place: Place, path: str) -> Sequence[WorkspaceFile]:
        """All that is kept of a file, newest first."""
