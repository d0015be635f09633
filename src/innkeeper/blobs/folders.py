"""Folders under the data folder, one for each checkout. Whatever ran in one may have left anything there.

Files are opened beneath their folder without following a link anywhere on the way, so that nothing outside is read.
Those of one process are together, beside a file that names it, so that those of the dead can be told from the others.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
import os
import shutil
import stat
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from innkeeper.blobs.threads import opened, to_the_end
from innkeeper.core.errors import StorageFull
from innkeeper.ports.folders import Found

T = TypeVar("T")

_AT_ONCE = 256 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_MAX_DEPTH = 256
"""No path of a workspace has more folders."""
_NAMED = ".process"
_OLD_SECONDS = 7 * 24 * 60 * 60
"""After which whoever made a folder is gone for certain, on whatever machine that was."""
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY


class LocalFolders:
    """Implements `ports.folders.Folders`. `is_gone` says whether the process of that name has certainly ended."""

    def __init__(self, root: Path, process: str, is_gone: Callable[[str], bool]) -> None:
        self._root = root
        self._process = process
        self._own = root / hashlib.sha256(process.encode()).hexdigest()[:16]
        self._is_gone = is_gone

    async def make(self, name: str) -> Path:
        folder = self._own / name

        def made() -> Path:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._own.exists():
                _named(self._own).write_text(self._process)
                self._own.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(mode=0o700)
            return folder

        return await _in_thread(made)

    async def fill(self, folder: Path, path: str, chunks: AsyncIterable[bytes]) -> None:
        place = folder / path
        descriptor = await opened(_in_thread, lambda: _created(place))
        try:
            async for chunk in chunks:
                await _in_thread(functools.partial(_write, descriptor, chunk))
        finally:
            await _in_thread(lambda: os.close(descriptor))

    async def scan(self, folder: Path, most: int) -> tuple[list[Found], bool]:
        def scanned() -> tuple[list[Found], bool]:
            found, has_more = list[Found](), False
            for one in _walk(str(folder), "", _MAX_DEPTH):
                if one is None:
                    has_more = True
                elif len(found) == most:
                    return found, True
                else:
                    found.append(one)
            return found, has_more

        return await _in_thread(scanned)

    async def read(self, folder: Path, path: str) -> AsyncIterator[bytes]:
        descriptor = await opened(_in_thread, lambda: _opened_beneath(folder, path))
        try:
            while chunk := await _in_thread(lambda: os.read(descriptor, _AT_ONCE)):
                yield chunk
        finally:
            os.close(descriptor)

    async def remove(self, folder: Path) -> None:
        await _in_thread(lambda: _removed(folder))

    async def clear(self) -> None:
        def cleared() -> None:
            for named in self._root.glob(f"*{_NAMED}"):
                process, folder = named.read_text(), named.with_suffix("")
                if process != self._process and (self._is_gone(process) or _is_old(folder)):
                    _removed(folder)
                    named.unlink(missing_ok=True)

        await _in_thread(cleared)


async def _in_thread(work: Callable[[], T]) -> T:
    """Raises: StorageFull; what the work raises."""
    try:
        return await to_the_end(asyncio.get_running_loop().run_in_executor(None, work))
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull("There is no room left for files.") from error
        raise


def _named(folder: Path) -> Path:
    """The file that names the process whose folder it is."""
    return folder.with_suffix(_NAMED)


def _is_old(folder: Path) -> bool:
    try:
        return folder.stat().st_mtime < time.time() - _OLD_SECONDS
    except FileNotFoundError:
        return True


def _created(place: Path) -> int:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _write(descriptor: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _walk(folder: str, prefix: str, levels: int) -> Iterator[Found | None]:
    """Regular files by name, folder by folder; `None` for what may not be looked at; nothing for what goes."""
    try:
        with os.scandir(folder) as entries:
            here = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        yield None
        return
    for entry in here:
        try:
            told = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError:
            yield None
            continue
        if stat.S_ISDIR(told.st_mode) and not levels:
            yield None
        elif stat.S_ISDIR(told.st_mode):
            yield from _walk(entry.path, f"{prefix}{entry.name}/", levels - 1)
        elif stat.S_ISREG(told.st_mode):
            yield Found(f"{prefix}{entry.name}", told.st_size, (told.st_mtime_ns, told.st_ino))


def _opened_beneath(root: Path, path: str) -> int:
    """Raises: FileNotFoundError for what is no regular file, or is behind a link; PermissionError."""
    *folders, name = path.split("/")
    at = os.open(root, _FOLDER)
    try:
        for folder in folders:
            at = _stepped(at, os.open(folder, _FOLDER, dir_fd=at))
        descriptor = os.open(name, _FILE, dir_fd=at)
    except PermissionError:
        raise
    except OSError as error:
        raise FileNotFoundError(path) from error
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path)
    return descriptor


def _stepped(before: int, after: int) -> int:
    os.close(before)
    return after


def _removed(folder: Path) -> None:
    """Also where a program took the rights to its folders from us."""
    if not folder.exists():
        return

    def open_up(remove: Callable[[str], object], path: str, error: object) -> None:
        place = Path(path)
        for one in (place.parent, place):
            if one.is_dir() and not one.is_symlink():
                one.chmod(0o700)
        try:
            remove(path)
        except OSError:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(path, ignore_errors=True)

    shutil.rmtree(folder, onerror=open_up)
