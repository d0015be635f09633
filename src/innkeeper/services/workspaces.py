"""Workspaces: the files of a session, and those of an agent, by path and version.

A session's is its caller's and its runs'; an agent's is the operator's, and counts as nobody's organization's.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence

from innkeeper.core.administration import WriteAudit
from innkeeper.core.changes import Change
from innkeeper.core.errors import FileMissing, Invalid, SessionNotFound
from innkeeper.core.file_changes import ChangeWorkspace, Removal, WorkspaceChanged, Write
from innkeeper.core.files import Place, WorkspaceFile
from innkeeper.core.media_types import guess, is_well_formed
from innkeeper.core.outcomes import Missing
from innkeeper.core.paths import checked
from innkeeper.core.times import Instant
from innkeeper.ports.files import WorkspaceReader
from innkeeper.ports.journal import Journal
from innkeeper.services.contents import Contents

OPERATORS = ""
"""The organization that agents' workspaces are counted for: no tenant is called so."""


def of_session(key: str, organization: str) -> Place:
    return Place("session", key, organization)


def of_agent(name: str) -> Place:
    return Place("agent", name, OPERATORS)


class Workspaces:
    """Use cases of workspaces; whoever asks has found the place for its caller."""

    def __init__(
        self, *, journal: Journal, workspaces: WorkspaceReader, contents: Contents, now: Callable[[], int]
    ) -> None:
        self._journal = journal
        self._workspaces = workspaces
        self._now = now
        self.contents = contents

    async def all(self, place: Place) -> Sequence[WorkspaceFile]:
        """The current files, by path."""
        return await self._workspaces.all(place)

    async def find(self, place: Place, path: str, version: int | None = None) -> WorkspaceFile:
        """A file, or an older version of it. Raises: FileMissing, also for what can be no path."""
        found = await self._workspaces.find(place, _readable(path), version)
        if found is None:
            raise _missing(path)
        return found

    async def versions(self, place: Place, path: str) -> Sequence[WorkspaceFile]:
        """What is kept of a file, newest first. Raises: FileMissing."""
        found = await self._workspaces.versions(place, _readable(path))
        if not found:
            raise _missing(path)
        return found

    def read(self, file: WorkspaceFile, first: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
        return self.contents.read(file.blob, file.size, first, size)

    async def write(
        self,
        place: Place,
        path: str,
        chunks: AsyncIterable[bytes],
        *,
        author: str,
        media_type: str | None = None,
        match: str | None = None,
        is_new: bool = False,
        entry: WriteAudit | None = None,
    ) -> WorkspaceFile:
        """A new version of a file; `entry` is committed with it.

        Raises: Invalid for a path that cannot be; PreconditionFailed; PayloadTooLarge; QuotaExceeded; SessionNotFound.
        """
        path = checked(path)
        if media_type is not None and not is_well_formed(media_type):
            raise Invalid("media_type: use a form such as text/plain.", param="media_type")
        blob = await self.contents.write(place.organization, chunks)
        kind = media_type if media_type is not None else guess(path, blob.head)
        write = Write(path, kind, blob, match, is_new)
        return (await self.change(place, (write,), author=author, entry=entry)).written[0]

    async def delete(
        self, place: Place, path: str, *, author: str, match: str | None = None, entry: WriteAudit | None = None
    ) -> None:
        """Remove a file with its versions. Raises: FileMissing, PreconditionFailed."""
        removal = Removal(_readable(path), match)
        changes = _with(self._change(place, (), (removal,), author), entry)
        if isinstance((await self._journal.commit(changes))[0], Missing):
            raise _missing(path)

    async def change(
        self,
        place: Place,
        writes: Sequence[Write],
        removals: Sequence[Removal] = (),
        *,
        author: str,
        entry: WriteAudit | None = None,
    ) -> WorkspaceChanged:
        """Write and remove, all or nothing; blobs that are not kept are dropped.

        Raises: SessionNotFound where the session is gone; as `write`.
        """
        changes = _with(self._change(place, tuple(writes), tuple(removals), author), entry)
        async with self.contents.dropped_unless_kept([write.blob for write in writes]):
            outcome = (await self._journal.commit(changes))[0]
            if not isinstance(outcome, WorkspaceChanged):
                raise SessionNotFound("The session is gone, or the file took too long to arrive.", param="session_id")
        return outcome

    def _change(
        self, place: Place, writes: tuple[Write, ...], removals: tuple[Removal, ...], author: str
    ) -> ChangeWorkspace:
        limits = self.contents.limits
        return ChangeWorkspace(
            place=place,
            writes=writes,
            removals=removals,
            author=author,
            now=Instant(self._now()),
            kept_versions=limits.kept_versions,
            max_files=limits.workspace_files,
            quota=limits.quota,
        )


def _with(change: ChangeWorkspace, entry: WriteAudit | None) -> tuple[Change, ...]:
    return (change,) if entry is None else (change, entry)


def _readable(path: str) -> str:
    """Raises: FileMissing for what no file can be called."""
    try:
        return checked(path)
    except Invalid:
        raise _missing(path) from None


def _missing(path: str) -> FileMissing:
    shown = "".join(character if character.isprintable() else "?" for character in path[:80])
    return FileMissing(f"There is no file {shown!r} in this workspace, or no such version of it.", param="path")
