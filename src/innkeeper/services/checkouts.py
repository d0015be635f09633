"""Checkouts: a workspace as a folder for a while, and what was done in the folder as new versions afterwards.

Whatever ran in the folder may have left anything there: only plain files are taken, under names that a workspace takes,
within its bounds. Who changed a file in the workspace meanwhile keeps it, and has the folder's as the next version.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from innkeeper.core.errors import FileMissing, Invalid, PayloadTooLarge, QuotaExceeded
from innkeeper.core.file_changes import Removal, Write
from innkeeper.core.files import Place, WorkspaceFile
from innkeeper.core.media_types import guess
from innkeeper.core.paths import checked
from innkeeper.ports.folders import Folders, Found
from innkeeper.services.workspaces import Workspaces

_logger = logging.getLogger(__name__)

_NAMED = 5


_Held = dict[str, tuple[WorkspaceFile, Found]]
"""What a folder has that the workspace has as well, and as what it was found there."""


@dataclass(slots=True)
class _Taken:
    """What a folder has come to. `found` is what is written, and what turned out to be the same."""

    writes: list[Write] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    found: dict[str, Found] = field(default_factory=dict)
    size: int = 0


@dataclass(eq=False, slots=True)
class _Out:
    """A folder while it is checked out."""

    folder: Path
    place: Place
    author: str
    held: _Held = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Checkouts:
    """Makes folders of workspaces."""

    def __init__(self, *, workspaces: Workspaces, folders: Folders, new_id: Callable[[], str]) -> None:
        self._workspaces = workspaces
        self._folders = folders
        self._new_id = new_id
        self._out: dict[Path, _Out] = {}
        self._working: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Remove what the dead have left."""
        await self._folders.clear()

    async def close(self) -> None:
        """Return when what was being taken over has been."""
        if self._working:
            await asyncio.wait(self._working)

    @contextlib.asynccontextmanager
    async def out(self, place: Place, author: str) -> AsyncIterator[Path]:
        """The workspace as a folder; what is in it at the end, the workspace has.

        Raises, at the end: Invalid for what could not be taken over, when the rest has been; QuotaExceeded.
        """
        one = _Out(await self._make(place), place, author)
        try:
            one.held.update(await self._fill(one.folder, place))
        except BaseException:
            await self._folders.remove(one.folder)
            raise
        self._out[one.folder] = one
        try:
            yield one.folder
        except BaseException:
            try:
                await self._through(self._end(one))
            except Exception as error:  # noqa: BLE001 - what the run failed with is more to the point
                _logger.warning("what a run did to its files is lost: %s", error)
            raise
        await self._through(self._end(one))

    async def _make(self, place: Place) -> Path:
        """The same folder each time, unless it is in use: programs know conversations by where they were led."""
        told = "\0".join((place.kind, place.key, place.organization))
        try:
            return await self._folders.make(hashlib.sha256(told.encode()).hexdigest()[:32])
        except FileExistsError:
            return await self._folders.make(self._new_id())

    async def keep(self, place: Place, folder: Path, author: str) -> None:
        """What has been done in a folder so far, the workspace has; it stays checked out.

        Raises: Invalid for what could not be taken over, and for a folder that is not checked out; QuotaExceeded.
        """
        one = self._out.get(folder)
        if one is None or one.place != place:
            raise Invalid("folder: it is not checked out of this workspace.", param="folder")
        await self._through(self._keep(one, author))

    async def _through(self, work: Coroutine[Any, Any, None]) -> None:
        """Goes on where whoever waits for it is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        await asyncio.shield(task)

    async def _fill(self, folder: Path, place: Place) -> _Held:
        files = {file.path: file for file in await self._workspaces.all(place)}
        for path, file in files.items():
            await self._folders.fill(folder, path, self._workspaces.read(file))
        found, _ = await self._folders.scan(folder, len(files))
        return {one.path: (files[one.path], one) for one in found if one.path in files}

    async def _keep(self, one: _Out, author: str) -> None:
        async with one.turn:
            if self._out.get(one.folder) is one:  # in a folder that is gone everything would be taken for removed
                one.author = author
                await self._take_over(one)

    async def _end(self, one: _Out) -> None:
        async with one.turn:
            try:
                await self._take_over(one)
            finally:
                del self._out[one.folder]
                await self._folders.remove(one.folder)

    async def _take_over(self, one: _Out) -> None:
        taken = await self._look(one.folder, one.place, one.held)
        if taken.writes or taken.removals:
            changed = await self._workspaces.change(one.place, taken.writes, taken.removals, author=one.author)
            for removal in taken.removals:
                del one.held[removal.path]
            for file in changed.written:
                one.held[file.path] = (file, taken.found.pop(file.path))
        for path, found in taken.found.items():
            one.held[path] = (one.held[path][0], found)
        if taken.refused:
            raise Invalid(_told(taken.refused), param="workspace")

    async def _look(self, folder: Path, place: Place, held: Mapping[str, tuple[WorkspaceFile, Found]]) -> _Taken:
        taken, most = _Taken(), self._workspaces.contents.limits.workspace_files
        found, has_more = await self._folders.scan(folder, most)
        seen: set[str] = set()
        try:
            for one in found:
                await self._take(folder, place, one, held, seen, taken)
        except BaseException:
            self._workspaces.contents.drop(write.blob.id for write in taken.writes)
            raise
        if has_more:
            taken.refused.append(f"what is beyond {most} files, or in folders that cannot be read")
        else:
            taken.removals += [
                Removal(path, file.digest, may_fail=True) for path, (file, _) in held.items() if path not in seen
            ]
        return taken

    async def _take(
        self,
        folder: Path,
        place: Place,
        one: Found,
        held: Mapping[str, tuple[WorkspaceFile, Found]],
        seen: set[str],
        taken: _Taken,
    ) -> None:
        """Write a file's blob if it is new or changed."""
        contents = self._workspaces.contents
        try:
            path = checked(one.path)
        except Invalid:
            taken.refused.append(one.path)
            return
        if path in seen or one.size > contents.limits.file_bytes:
            taken.refused.append(one.path)
            seen.add(path)
            return
        seen.add(path)
        before = held.get(path)
        if before is not None and (before[1].size, before[1].changed) == (one.size, one.changed):
            return
        _check_room(taken, one.size, contents.limits.quota)
        taken.found[path] = one
        try:
            blob = await contents.write(place.organization, self._folders.read(folder, one.path))
        except (FileNotFoundError, FileMissing):
            del taken.found[path]
            return  # it is no plain file any more
        except (PermissionError, PayloadTooLarge):  # it grew meanwhile
            taken.refused.append(one.path)
            del taken.found[path]
            return
        if before is not None and before[0].digest == blob.digest:
            contents.drop((blob.id,))
        else:
            taken.writes.append(Write(path, guess(path, blob.head), blob))
            taken.size += blob.size


def _check_room(taken: _Taken, size: int, quota: int | None) -> None:
    """See that what is written beforehand can be kept at all. Raises: QuotaExceeded."""
    if quota is not None and taken.size + size > quota:
        raise QuotaExceeded(
            f"What is in the folder is more than the {quota} bytes that your organization may have (STORAGE_QUOTA).",
            details={"quota": quota},
        )


def _told(refused: Sequence[str]) -> str:
    shown = ", ".join(ascii(path) for path in refused[:_NAMED])
    more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    return f"workspace: not kept, because too large, too many, or under names that no workspace takes: {shown}{more}."
