"""Children: processes that the server starts to run code in, and ends at any moment.

A child leads a process group of its own, so that whatever it starts ends with it. It has no environment, and it ends by
itself when its standard input does, which is when the server is gone.
Invariant: whoever has a child has it alone; one that did not finish what it was asked is killed and never used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence

from innkeeper.core.errors import ShuttingDown
from innkeeper.sandbox.frames import HEADER, decode, encode

_MAX_FRAME = 64 * 1024 * 1024  # no honest child sends a tenth of it
_PATIENCE = 5.0  # seconds for the end of a process that was killed


class ChildEnded(Exception):
    """The child is gone, or talks nonsense."""


class Child:
    """One process, and the frames to and from it. One that is worn is not asked again."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input, self._output = process.stdin, process.stdout
        self.is_worn = False

    @classmethod
    async def start(cls, command: Sequence[str], environment: dict[str, str]) -> Child:
        pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=nowhere, env=environment, start_new_session=True
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def send(self, message: dict[str, object]) -> None:
        await self.write(encode(message))

    async def write(self, frame: bytes) -> None:
        try:
            self._input.write(frame)
            await self._input.drain()
        except (OSError, RuntimeError) as error:  # uvloop says RuntimeError for a transport that is closed
            raise ChildEnded from error

    async def receive(self) -> dict[str, object]:
        try:
            (size,) = HEADER.unpack(await self._output.readexactly(HEADER.size))
            if size > _MAX_FRAME:
                raise ChildEnded
            return decode(await self._output.readexactly(size))
        except (OSError, ValueError, RecursionError, asyncio.IncompleteReadError) as error:
            raise ChildEnded from error

    def kill(self) -> None:
        """With everything that it has started."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._input.close()

    async def ended(self) -> None:
        """Return once it is dead, and nothing of it is left in this loop."""
        # asyncio counts a process as ended once its output has been read to the end, which maybe nobody does now;
        # and uvloop complains of a loop that is closed before.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                with contextlib.suppress(OSError, RuntimeError):  # somebody else reads it yet
                    while await self._output.read(64 * 1024):
                        pass
                await self._process.wait()
        await asyncio.sleep(0)


class Children:
    """At most `most` of them at a time, made when they are needed and kept for the next who asks."""

    def __init__(self, command: Sequence[str], most: int, environment: dict[str, str] | None = None) -> None:
        self._command = command
        self._environment = environment or {}
        self._free = asyncio.Semaphore(most)
        self._idle: list[Child] = []
        self._all: set[Child] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        return sorted(child.pid for child in self._all)

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[Child]:
        """A child for as long as the block runs; it is killed unless the block ends by itself."""
        async with self._free:
            child = await self._take()
            try:
                yield child
            except BaseException:
                self._drop(child)
                raise
            if child.is_worn:
                self._drop(child)
            else:
                self._idle.append(child)

    async def close(self) -> None:
        self._is_closed = True
        for child in list(self._all):
            self._drop(child)
        while self._ending:
            await asyncio.wait(set(self._ending))

    async def _take(self) -> Child:
        while self._idle:
            child = self._idle.pop()
            if child.is_alive:
                return child
            self._drop(child)
        self._check_open()
        child = await Child.start(self._command, self._environment)
        try:
            self._check_open()
        except ShuttingDown:
            child.kill()
            await child.ended()
            raise
        self._all.add(child)
        return child

    def _check_open(self) -> None:
        if self._is_closed:
            raise ShuttingDown("The server is stopping and calls no more code.")

    def _drop(self, child: Child) -> None:
        if child in self._all:
            self._all.discard(child)
            child.kill()
            task = asyncio.ensure_future(child.ended())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


def python(module: str, *arguments: str) -> list[str]:
    """A command that runs `main` of a module, with the server's import path and none of its settings."""
    paths = [os.path.abspath(path) for path in sys.path if path]  # noqa: PTH100 - no link is to be resolved
    start = f"import sys; sys.path[:] = {paths!r}; from {module} import main; main()"
    return [sys.executable, "-I", "-X", "utf8", "-c", start, *arguments]
