"""Blobs as files in a folder, under the server's own ids; what clients call them is nowhere on disk.

A blob is written beside its place, synced and renamed, so that whatever stands in its place is whole. Calls that may
wait for the disk run in threads of this store's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from innkeeper.blobs.threads import opened, to_the_end
from innkeeper.core.errors import SetupError, StorageFull, StorageUnavailable
from innkeeper.ports.blobs import Written

T = TypeVar("T")

_AT_ONCE = 256 * 1024
_THREADS = 4
_ID = re.compile(r"[0-9a-z_-]{8,64}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_UNFINISHED = ".incoming"


class LocalBlobs:
    """Implements `ports.blobs.BlobStore`. The folder may be shared by several machines, if it renames atomically."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = ThreadPoolExecutor(_THREADS, "innkeeper-blobs")

    async def open(self) -> None:
        def prepare() -> None:
            for folder in (self._folder, self._folder / _UNFINISHED):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)

        try:
            await self._in_thread(prepare)
        except StorageUnavailable as error:
            raise SetupError(f"The folder {self._folder} cannot be used: {error.__cause__}.") from error

    async def put(self, blob: str, chunks: AsyncIterable[bytes]) -> Written:
        path, unfinished = self._place(blob), self._unfinished(blob)
        digest, size, pieces, held = hashlib.sha256(), 0, list[bytes](), 0
        descriptor = await opened(self._in_thread, lambda: _created(unfinished))
        try:
            async for chunk in chunks:
                pieces.append(chunk)
                held += len(chunk)
                if held >= _AT_ONCE:
                    data, pieces, held, size = b"".join(pieces), [], 0, size + held
                    await self._in_thread(_writing(descriptor, data, digest.update))
            data, size = b"".join(pieces), size + held
            await self._in_thread(_writing(descriptor, data, digest.update))
            await self._in_thread(lambda: _finish(descriptor, unfinished, path))
        except BaseException:
            with contextlib.suppress(StorageUnavailable):
                await self._in_thread(lambda: _gone(unfinished))
            raise
        finally:
            await self._in_thread(lambda: os.close(descriptor))
        return Written(size, digest.hexdigest())

    async def read(self, blob: str, first: int = 0, size: int | None = None) -> AsyncGenerator[bytes]:
        path = self._place(blob)
        descriptor = await opened(self._in_thread, lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        try:
            at, left = first, size
            while left is None or left > 0:
                count = _AT_ONCE if left is None else min(left, _AT_ONCE)
                chunk = await self._in_thread(_reading(descriptor, count, at))
                if not chunk:
                    return
                at += len(chunk)
                left = None if left is None else left - len(chunk)
                yield chunk
        finally:
            os.close(descriptor)

    async def delete(self, blob: str) -> None:
        paths = (self._place(blob), self._unfinished(blob))
        await self._in_thread(lambda: _gone(*paths))

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    def _place(self, blob: str) -> Path:
        """Ids begin with the time, so that their ends, which are random, spread them over folders."""
        _check(blob)
        return self._folder / blob[-2:] / blob

    def _unfinished(self, blob: str) -> Path:
        _check(blob)
        return self._folder / _UNFINISHED / blob

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            with _told():
                return await to_the_end(asyncio.get_running_loop().run_in_executor(self._threads, work))
        except RuntimeError as error:  # the threads have been shut down
            raise StorageUnavailable("The store of files is closed.") from error


def _check(blob: str) -> None:
    if not _ID.fullmatch(blob):
        raise ValueError("a blob is named by the server")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the disk refuses, in the words of the port."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull("There is no room left for files.") from error
        raise StorageUnavailable("The store of files does not answer, or has lost this one.") from error


def _created(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _writing(descriptor: int, data: bytes, digest: Callable[[bytes], None]) -> Callable[[], None]:
    def write() -> None:
        digest(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    return write


def _reading(descriptor: int, count: int, at: int) -> Callable[[], bytes]:
    return lambda: os.pread(descriptor, count, at)


def _finish(descriptor: int, unfinished: Path, path: Path) -> None:
    os.fsync(descriptor)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    unfinished.replace(path)
    for folder in (path.parent, path.parent.parent):
        _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gone(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
