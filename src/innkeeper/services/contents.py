"""Contents: blobs from the first byte to the commit that names them, and what becomes of them where none does.

Before a blob is written its id is in the rubbish; whoever commits a row that names it takes it out. So a crash leaves
nothing that nobody knows of, and nothing is removed that a row names. `Rubbish` is what empties it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass

from innkeeper.core.administration import Derived
from innkeeper.core.errors import InnkeeperError, PayloadTooLarge, QuotaExceeded, StorageUnavailable
from innkeeper.core.file_changes import DropRubbish, ForgetFiles, ReserveBlobs, RubbishTaken, TakeRubbish
from innkeeper.core.files import RESERVED_FOR, Blob
from innkeeper.core.media_types import HEAD_BYTES
from innkeeper.core.times import Instant
from innkeeper.ports.blobs import BlobStore
from innkeeper.ports.files import FileReader
from innkeeper.ports.journal import Journal
from innkeeper.services.chores import Chore

_logger = logging.getLogger(__name__)

_FIRST_SECONDS, _EVERY_SECONDS = 5.0, 30.0
_AT_ONCE = 100
_FAILURES = 5
"""After which the store of files is taken to be out of order."""
_LAST_SECONDS = 5.0
"""For which the end of a server waits for what it drops."""
_HELD_FOR = 10 * 60 * 1_000_000
"""Microseconds for which rubbish is its taker's to remove."""


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Bounds on files, in bytes and numbers. `quota` is for all files of an organization, if there is any."""

    file_bytes: int = 25 * 1024 * 1024
    quota: int | None = 5 * 1024 * 1024 * 1024
    kept_versions: int = 10
    workspace_files: int = 10_000
    files_at_once: int = 10


class Contents:
    """Writes and reads blobs for files and workspaces."""

    def __init__(
        self,
        *,
        blobs: BlobStore,
        journal: Journal,
        files: FileReader,
        now: Callable[[], int],
        new_id: Callable[[], str],
        limits: FileLimits,
    ) -> None:
        self._blobs = blobs
        self._journal = journal
        self._files = files
        self._now = now
        self._new_id = new_id
        self.limits = limits
        self._coming: Counter[str] = Counter()
        self._dropping: set[asyncio.Task[None]] = set()

    async def write(self, organization: str, chunks: AsyncIterable[bytes]) -> Blob:
        """A new blob of what `chunks` yields, for a row to name it; whoever does not, drops it.

        Raises: PayloadTooLarge; QuotaExceeded; StorageUnavailable; what `chunks` raises.
        """
        blob_id, due_at = self._new_id(), Instant(self._now() + RESERVED_FOR)
        await self._journal.commit((ReserveBlobs((blob_id,), due_at),))
        bounded = _Bounded(self, organization, chunks, await self._files.room_of(organization))
        try:
            written = await self._blobs.put(blob_id, bounded.chunks())
        except BaseException:
            self.drop((blob_id,))
            raise
        finally:
            bounded.close()
        return Blob(blob_id, written.size, written.digest, due_at, bytes(bounded.head))

    async def read(self, blob: str, length: int, first: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
        """Pieces of a blob that has `length` bytes, from the byte `first` on, `size` of them at most.

        Raises: StorageUnavailable, in the end also where the blob turns out to be shorter than it was.
        """
        left = max(0, length - first)
        left = left if size is None else min(left, size)
        async with contextlib.aclosing(self._blobs.read(blob, first, left)) as pieces:
            async for piece in pieces:
                left -= len(piece)
                yield piece
        if left:
            raise StorageUnavailable("The store of files has lost a part of this one.")

    def drop(self, blobs: Iterable[str]) -> None:
        """Remove blobs that no row names and none will; what fails of it is done when they are due."""
        task = asyncio.get_running_loop().create_task(self._drop(tuple(blobs)))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)

    async def _drop(self, blobs: tuple[str, ...]) -> None:
        try:
            for blob in blobs:
                await self._blobs.delete(blob)
            if blobs:
                await self._journal.commit((DropRubbish(blobs),))
        except InnkeeperError as error:
            _logger.warning("files that were given up are removed later: %s", error)

    @contextlib.asynccontextmanager
    async def dropped_unless_kept(self, blobs: Iterable[Blob]) -> AsyncIterator[None]:
        """Within, a commit names the blobs; where it fails, they are dropped."""
        try:
            yield
        except BaseException as error:
            # Where the store did not answer it may have committed: whoever empties the rubbish knows.
            if not isinstance(error, StorageUnavailable | asyncio.CancelledError):
                self.drop(blob.id for blob in blobs)
            raise

    async def settled(self) -> None:
        """Return when what was dropped is gone, or has been waited for: then it is removed when it is due."""
        if self._dropping:
            _, late = await asyncio.wait(self._dropping, timeout=_LAST_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def close(self) -> None:
        await self.settled()
        await self._blobs.close()


class _Bounded:
    """Chunks within the bounds of a file, and of what their organization may have on its way at a time."""

    def __init__(self, contents: Contents, organization: str, chunks: AsyncIterable[bytes], used: int) -> None:
        self._limits = contents.limits
        self._coming = contents._coming
        self._organization = organization
        self._chunks = chunks
        self._used = used
        self._size = 0
        self.head = bytearray()

    async def chunks(self) -> AsyncIterator[bytes]:
        limits = self._limits
        async for chunk in self._chunks:
            self._size += len(chunk)
            self._coming[self._organization] += len(chunk)
            if self._size > limits.file_bytes:
                raise PayloadTooLarge(f"A file may have {limits.file_bytes} bytes (MAX_FILE_BYTES).", param="file")
            if limits.quota is not None and self._used + self._coming[self._organization] > limits.quota:
                raise QuotaExceeded(
                    f"The files of your organization may have {limits.quota} bytes in all. Delete some, or ask the"
                    " operator for more (STORAGE_QUOTA).",
                    details={"quota": limits.quota},
                )
            if len(self.head) < HEAD_BYTES:
                self.head += chunk[: HEAD_BYTES - len(self.head)]
            yield chunk

    def close(self) -> None:
        self._coming[self._organization] -= self._size
        if not self._coming[self._organization]:
            del self._coming[self._organization]


class Rubbish:
    """Empties the rubbish, and drops files whose time is over, every now and then."""

    def __init__(self, *, journal: Journal, blobs: BlobStore, now: Callable[[], int]) -> None:
        self._journal = journal
        self._blobs = blobs
        self._now = now
        self._chore = Chore("removing old files", self.empty, first=_FIRST_SECONDS, every=_EVERY_SECONDS)

    def open(self) -> None:
        self._chore.open()

    async def close(self) -> None:
        await self._chore.close()

    async def empty(self) -> int:
        """Remove what is due; returns how many blobs that were. Raises: StorageUnavailable."""
        while await self._forget_some() == _AT_ONCE:
            pass
        total = 0
        while blobs := await self._take_some():
            total += await self._remove(blobs)
        return total

    async def _remove(self, blobs: Sequence[str]) -> int:
        """One that cannot be removed stands in no other's way; it is tried again when nobody holds it any more."""
        gone, failures = list[str](), list[StorageUnavailable]()
        for blob in blobs:
            try:
                await self._blobs.delete(blob)
                gone.append(blob)
            except StorageUnavailable as error:
                failures.append(error)
                if len(failures) == _FAILURES:
                    break
        if gone:
            await self._journal.commit((DropRubbish(tuple(gone)),))
        if failures:
            raise failures[0]
        return len(gone)

    async def _forget_some(self) -> int:
        (outcome,) = await self._journal.commit((ForgetFiles(Instant(self._now()), _AT_ONCE),))
        assert isinstance(outcome, Derived), "forgetting is answered with how many there were"
        return outcome.count

    async def _take_some(self) -> tuple[str, ...]:
        now = self._now()
        (outcome,) = await self._journal.commit((TakeRubbish(Instant(now), Instant(now + _HELD_FOR), _AT_ONCE),))
        assert isinstance(outcome, RubbishTaken), "taking is answered with what was taken"
        return outcome.blobs
