"""Where the contents of files are kept: blobs under ids of the server's own. What they are called, nobody knows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Written:
    """`digest` is the SHA-256 in hexadecimal."""

    size: int
    digest: str


class BlobStore(Protocol):
    """Keeps blobs.

    - A blob is there whole, and on disk, once `put` has returned; before, and where `put` raises, it cannot be read.
    - Neither way has more of a blob in memory than a few pieces of it.
    - What the store cannot do, it says with `StorageUnavailable`, or `StorageFull` where there is no room.
    """

    async def open(self) -> None:
        """Get ready; before anything else. Raises: SetupError where it cannot be used."""

    async def put(self, blob: str, chunks: AsyncIterable[bytes]) -> Written:
        """Write what `chunks` yields, nothing being a blob as well. What it raises is raised, and nothing is kept."""

    def read(self, blob: str, first: int = 0, size: int | None = None) -> AsyncGenerator[bytes]:
        """Pieces of a blob from the byte `first` on, `size` of them at most; nothing beyond its end.

        Raises: StorageUnavailable, before the first piece, where there is no such blob.
        """

    async def delete(self, blob: str) -> None:
        """Remove a blob, and what a `put` that was cut off has left of it; one that is not there is no error."""

    async def close(self) -> None:
        """Let go of what it holds; idempotent."""
