"""Folders on this machine that hold the files of a workspace for a while, for programs that work on files."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it lies in a folder; `changed` moves with each write to it."""

    path: str
    size: int
    changed: tuple[int, int]


class Folders(Protocol):
    """Makes, reads and removes folders. Links, pipes, sockets and devices in them are not there."""

    async def make(self, name: str) -> Path:
        """An empty folder that nobody else may read."""

    async def fill(self, folder: Path, path: str, chunks: AsyncIterable[bytes]) -> None:
        """Write a file, with the folders that it is in. Raises: StorageFull."""

    async def scan(self, folder: Path, most: int) -> tuple[list[Found], bool]:
        """Up to `most` files, and whether there are, or may be, more: where a folder cannot be read."""

    def read(self, folder: Path, path: str) -> AsyncIterator[bytes]:
        """Pieces of a file.

        Raises: FileNotFoundError where it is none any more, also before the first piece; PermissionError.
        """

    async def remove(self, folder: Path) -> None:
        """Remove a folder with everything in it."""

    async def clear(self) -> None:
        """Remove what processes that are gone have left."""
