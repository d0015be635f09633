"""Files: what callers upload to name it later, by an id. Each is its owner's alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from innkeeper.core.changes import KeepClaim
from innkeeper.core.claims import Claim
from innkeeper.core.errors import FileMissing, Invalid, StorageUnavailable
from innkeeper.core.file_changes import DeleteFile, KeepFile
from innkeeper.core.files import Blob, StoredFile
from innkeeper.core.identity import Caller
from innkeeper.core.media_types import guess
from innkeeper.core.outcomes import Done, Repeated
from innkeeper.core.times import Instant
from innkeeper.ports.files import FileReader
from innkeeper.ports.journal import Journal
from innkeeper.services.contents import Contents
from innkeeper.services.identities import end_user

PURPOSES = frozenset(("assistants", "batch", "fine-tune", "vision", "user_data", "evals"))


class Files:
    """Use cases of uploaded files."""

    def __init__(
        self,
        *,
        journal: Journal,
        files: FileReader,
        contents: Contents,
        now: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._journal = journal
        self._files = files
        self._now = now
        self._new_id = new_id
        self.contents = contents

    async def keep(
        self,
        caller: Caller,
        blob: Blob,
        *,
        name: str,
        purpose: str,
        expires_after: int | None = None,
        claim: Claim | None = None,
    ) -> tuple[StoredFile, bool]:
        """Make a file of a blob that has been written; and whether the same request had made one before.

        Raises: Invalid; QuotaExceeded; IdempotencyMismatch; StorageUnavailable. The blob is dropped then.
        """
        async with self.contents.dropped_unless_kept((blob,)):
            _check(blob, purpose)
            file = self._made(caller, blob, name, purpose, expires_after)
            keeping = KeepFile(file, blob.due_at, self.contents.limits.quota)
            if claim is None:
                (outcome,) = await self._journal.commit((keeping,))
            else:
                claiming = KeepClaim(caller.owner, claim, file.id, file.created_at)
                first, outcome = await self._journal.commit((claiming, keeping))
                if isinstance(first, Repeated):
                    self.contents.drop((blob.id,))
                    return await self.get(caller, first.claimed.subject), True
            if not isinstance(outcome, Done):
                self.contents.drop((blob.id,))
                raise StorageUnavailable("The file took too long to arrive. Send it again.")
        return file, False

    def _made(self, caller: Caller, blob: Blob, name: str, purpose: str, expires_after: int | None) -> StoredFile:
        now = Instant(self._now())
        return StoredFile(
            id=f"file-{self._new_id()}",
            owner=caller.owner,
            user_id=end_user(caller, None),
            name=name,
            purpose=purpose,
            media_type=guess(name, blob.head),
            size=blob.size,
            digest=blob.digest,
            blob=blob.id,
            created_at=now,
            expires_at=None if expires_after is None else Instant(now + expires_after * 1_000_000),
        )

    async def get(self, caller: Caller, file_id: str) -> StoredFile:
        """Raises: FileMissing, whether it is another's or nobody's."""
        file = await self._files.find(caller, file_id, Instant(self._now()))
        if file is None:
            raise FileMissing("No such file; it may have been deleted.", param="file_id")
        return file

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        purpose: str | None = None,
        is_ascending: bool = False,
    ) -> tuple[Sequence[StoredFile], bool]:
        """The caller's own, newest first, or oldest first; and whether there are more."""
        now = Instant(self._now())
        return await self._files.page(caller, now, limit=limit, after=after, purpose=purpose, is_ascending=is_ascending)

    def read(self, file: StoredFile, first: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
        return self.contents.read(file.blob, file.size, first, size)

    async def delete(self, caller: Caller, file_id: str) -> None:
        """Raises: FileMissing."""
        file = await self.get(caller, file_id)
        (outcome,) = await self._journal.commit((DeleteFile(file.id, Instant(self._now())),))
        if not isinstance(outcome, Done):
            raise FileMissing("No such file; it may have been deleted.", param="file_id")


def _check(blob: Blob, purpose: str) -> None:
    if purpose not in PURPOSES:
        raise Invalid(f"purpose: use one of {', '.join(sorted(PURPOSES))}.", param="purpose")
    if not blob.size:
        raise Invalid("file: it is empty.", param="file")
