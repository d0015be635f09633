"""Workspaces as agent code has them: `context.workspace`, its session's, and `context.agent_workspace`, its agent's.

Whoever asks may be on the server's event loop, on a loop of an agent's own, or, through `sync`, in a thread; what is
asked is answered on the server's loop, where the line to it belongs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import wait
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from innkeeper.core.files import WorkspaceFile

T = TypeVar("T")

_LOOK_SECONDS = 1.0
"""After which a thread that waits for the server's loop sees that this one has closed."""


class WorkspaceLine(Protocol):
    """What stands behind a workspace, on the server's loop."""

    async def all(self) -> Sequence[WorkspaceFile]: ...

    async def versions(self, path: str) -> Sequence[WorkspaceFile]: ...

    async def find(self, path: str, version: int | None) -> WorkspaceFile: ...

    def read(self, file: WorkspaceFile) -> AsyncIterator[bytes]: ...

    async def write(self, path: str, chunks: AsyncIterable[bytes], media_type: str | None) -> WorkspaceFile: ...

    async def delete(self, path: str) -> None: ...

    def checkout(self) -> AbstractAsyncContextManager[Path]: ...

    async def keep(self, folder: Path) -> None: ...


class Workspace:
    """Files by path and version. An agent's own workspace can be read only.

    What is missing raises `FileMissing`; a path that cannot be, `Invalid`; what would be too much, `PayloadTooLarge` or
    `QuotaExceeded` (all of `innkeeper.core.errors`).
    """

    def __init__(self, line: WorkspaceLine | None = None) -> None:
        """On the server's loop, where there is a line."""
        self._line = line
        self._loop = None if line is None else asyncio.get_running_loop()

    @property
    def sync(self) -> SyncWorkspace:
        """The same for sync agents and tools, which run in threads: without `await`."""
        return SyncWorkspace(self)

    async def list(self) -> Sequence[WorkspaceFile]:
        """The files, by path, as they are now."""
        return await self._ask(lambda line: line.all())

    async def versions(self, path: str) -> Sequence[WorkspaceFile]:
        """What is kept of a file, newest first."""
        return await self._ask(lambda line: line.versions(path))

    async def read(self, path: str, version: int | None = None) -> bytes:
        """The contents of a file, or of an older version of it."""

        async def whole(line: WorkspaceLine) -> bytes:
            file = await line.find(path, version)
            return b"".join([chunk async for chunk in line.read(file)])

        return await self._ask(whole)

    async def read_text(self, path: str, version: int | None = None, *, encoding: str = "utf-8") -> str:
        return (await self.read(path, version)).decode(encoding)

    async def open(self, path: str, version: int | None = None) -> AsyncIterator[bytes]:
        """The contents in pieces, for files that are large: `async for piece in context.workspace.open(path)`."""
        file = await self._ask(lambda line: line.find(path, version))
        pieces = self._given.read(file)
        try:
            while (piece := await self._ask(lambda _: _next(pieces))) is not None:
                yield piece
        finally:
            await self._ask(lambda _: _closed(pieces))

    async def write(
        self, path: str, data: bytes | str | AsyncIterable[bytes], media_type: str | None = None
    ) -> WorkspaceFile:
        """A new version of a file, of bytes, of text, or of pieces. The media type is guessed if omitted."""
        chunks = _brought(data, asyncio.get_running_loop())
        return await self._ask(lambda line: line.write(path, chunks, media_type))

    async def delete(self, path: str) -> None:
        """Remove a file with all of its versions."""
        await self._ask(lambda line: line.delete(path))

    @contextlib.asynccontextmanager
    async def checkout(self) -> AsyncIterator[Path]:
        """A folder with the workspace's files, for code that works on files: `async with … as folder`.

        What was changed in it, added or removed, is in the workspace when the block is left, however it is. Links,
        pipes and devices are not taken over. The folder is removed then.
        """
        held = self._given.checkout()
        folder = await self._ask(lambda _: held.__aenter__())
        try:
            yield folder
        except BaseException as raised:
            error = raised
            if not await self._ask(lambda _: held.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            await self._ask(lambda _: held.__aexit__(None, None, None))

    async def keep(self, folder: Path) -> None:
        """Take over what has been done so far in a folder that is checked out, and leave it checked out."""
        await self._ask(lambda line: line.keep(folder))

    @property
    def _given(self) -> WorkspaceLine:
        if self._line is None:
            raise RuntimeError("There is a workspace only while a run is executed.")
        return self._line

    async def _ask(self, ask: Callable[[WorkspaceLine], Awaitable[T]]) -> T:
        line, loop = self._given, self._loop
        if loop is None or asyncio.get_running_loop() is loop:
            return await ask(line)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_awaited(ask(line)), loop))

    def _wait(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """In a thread: ask, and wait for the answer."""
        self._given  # noqa: B018 - raises where there is none
        assert self._loop is not None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise RuntimeError("Use `await context.workspace.…`: what is under `sync` is for sync agents.")
        answer = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        while not wait([answer], timeout=_LOOK_SECONDS).done:
            if self._loop.is_closed():
                raise RuntimeError("The server has stopped.")
        return answer.result()


class SyncWorkspace:
    """A workspace for code in threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def list(self) -> Sequence[WorkspaceFile]:
        return self._workspace._wait(self._workspace.list)

    def versions(self, path: str) -> Sequence[WorkspaceFile]:
        return self._workspace._wait(lambda: self._workspace.versions(path))

    def read(self, path: str, version: int | None = None) -> bytes:
        return self._workspace._wait(lambda: self._workspace.read(path, version))

    def read_text(self, path: str, version: int | None = None, *, encoding: str = "utf-8") -> str:
        return self.read(path, version).decode(encoding)

    def write(self, path: str, data: bytes | str, media_type: str | None = None) -> WorkspaceFile:
        return self._workspace._wait(lambda: self._workspace.write(path, data, media_type))

    def delete(self, path: str) -> None:
        self._workspace._wait(lambda: self._workspace.delete(path))

    def keep(self, folder: Path) -> None:
        self._workspace._wait(lambda: self._workspace.keep(folder))

    @contextlib.contextmanager
    def checkout(self) -> Iterator[Path]:
        """As `Workspace.checkout`, with a plain `with`."""
        wait_for = self._workspace._wait
        held = self._workspace.checkout()
        folder = wait_for(lambda: _awaited(held.__aenter__()))
        try:
            yield folder
        except BaseException as raised:
            error = raised
            if not wait_for(lambda: _awaited(held.__aexit__(type(error), error, error.__traceback__))):
                raise
        else:
            wait_for(lambda: _awaited(held.__aexit__(None, None, None)))


async def _brought(data: bytes | str | AsyncIterable[bytes], home: asyncio.AbstractEventLoop) -> AsyncIterator[bytes]:
    """On the server's loop: the pieces of `data`, each drawn on the loop that it belongs to."""
    if isinstance(data, str):
        yield data.encode()
    elif isinstance(data, bytes | bytearray | memoryview):
        yield bytes(data)
    else:
        pieces, is_at_home = aiter(data), home is asyncio.get_running_loop()
        while True:
            drawn = _next(pieces)
            piece = await (drawn if is_at_home else asyncio.wrap_future(asyncio.run_coroutine_threadsafe(drawn, home)))
            if piece is None:
                return
            yield bytes(piece)


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)


async def _closed(pieces: AsyncIterator[bytes]) -> None:
    close = getattr(pieces, "aclose", None)
    if close is not None:
        await close()
