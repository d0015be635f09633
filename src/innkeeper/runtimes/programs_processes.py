"""Processes of programs: their start, their streams, and their end. What they say is read by `programs_formats`.

Between the server and each program stands a process of `programs_keeper`, which ends all that the program has started,
also where the server is killed. A thread waits for it, so that nothing here blocks the event loop, and none is left
unburied. Output is read only when somebody asks for it, so that a program that floods waits for its reader.
Invariant: arguments never pass through a shell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from innkeeper.core.errors import AgentFailed
from innkeeper.runtimes.programs_terminals import Size, open_terminal

_CHUNK = 16 * 1024
_SKIPPED = 64
_LAST_WORDS = 8 * 1024
_KEEPER = str(Path(__file__).with_name("programs_keeper.py"))


@dataclass(frozen=True, slots=True)
class Launch:
    """What is started: `command` begins with the path of a file, `terminal` is the size of one if there is one."""

    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]
    terminal: Size | None = None
    has_input: bool = True


class Process:
    """One program while it runs, for the event loop that started it."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._loop = asyncio.get_running_loop()
        self._started: Future[None] = Future()
        self.exit: Future[int] = Future()
        """Its exit code, once nothing of it is left."""
        self._control, self._far_control = socket.socketpair()
        self._control_lock = threading.Lock()
        self._words = bytearray()
        self._is_over = False
        self._keeper: subprocess.Popen[bytes] | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._open_streams()

    def _open_streams(self) -> None:
        """Raises: AgentFailed where the system has no more descriptors."""
        opened: list[int] = []
        try:
            opened += os.pipe()
            if self._launch.terminal is not None:
                opened += open_terminal(self._launch.terminal)
                opened += os.dup(opened[2]), os.dup(opened[3])
            else:
                opened += os.pipe()
                opened += reversed(os.pipe()) if self._launch.has_input else (-1, os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            for descriptor in set(opened) - {-1}:
                os.close(descriptor)
            raise AgentFailed(f"cannot be started: {error.strerror}.") from error
        err, far_err, out, far_out, into, far_in = opened
        self._in, self._out, self._err = into, out, err
        self._far = far_in, far_out, far_err
        for near in (into, out, err):
            if near >= 0:
                os.set_blocking(near, False)

    @classmethod
    async def start(cls, launch: Launch) -> Process:
        """Raises: AgentFailed that says why the program cannot be started."""
        process = cls(launch)
        for future in (process._started, process.exit):
            future.set_running_or_notify_cancel()  # whoever stops waiting leaves them as they are
        threading.Thread(target=process._live, name="innkeeper-program", daemon=True).start()
        process._loop.add_reader(process._err, process._hear)
        process.exit.add_done_callback(process._tell)
        try:
            await asyncio.wrap_future(process._started)
        except BaseException:
            process.end()
            raise
        return process

    @property
    def is_alive(self) -> bool:
        return not self._is_over and not self.exit.done()

    @property
    def last_words(self) -> str:
        """The end of what it has written to its standard error."""
        return self._words.decode(errors="replace")

    # its life, in a thread

    def _live(self) -> None:
        code = 127
        try:
            with self._spawn() as keeper:
                self._keeper = keeper
                told = self._control.recv(16)
                if told in (b"0", b""):
                    self._started.set_result(None)
                else:
                    self._started.set_exception(AgentFailed(f"cannot be started: {os.strerror(int(told))}."))
                code = keeper.wait()
        except (OSError, ValueError) as error:
            if not self._started.done():
                self._started.set_exception(AgentFailed(f"cannot be started: {error}."))
        finally:
            with self._control_lock:
                self._control.close()
            self.exit.set_result(code)

    def _tell(self, _: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        for waiter in self._waiters:
            _wake(waiter)

    def _spawn(self) -> subprocess.Popen[bytes]:
        launch, far = self._launch, self._far_control.fileno()
        kind = "pipe" if launch.terminal is None else "terminal"
        try:
            # -I and -S: nothing of the environment or the folder can stand in for a module, and it starts at once.
            return subprocess.Popen(  # noqa: S603 - the operator named it
                [sys.executable, "-I", "-S", _KEEPER, str(far), kind, *launch.command],
                stdin=self._far[0],
                stdout=self._far[1],
                stderr=self._far[2],
                cwd=launch.folder,
                env=dict(launch.environment),
                pass_fds=(far,),
                start_new_session=True,
            )
        finally:
            self._far_control.close()
            for descriptor in self._far:
                os.close(descriptor)

    # what it says

    async def read(self) -> bytes:
        """What it says next; empty at the end."""
        await asyncio.sleep(0)  # one that always has something to say must not hold up the others
        while not self._is_over:
            is_last = self.exit.done()  # whatever has escaped may hold the other end open
            try:
                return os.read(self._out, _CHUNK)
            except BlockingIOError:
                if is_last:
                    return b""
                await self._until(self._loop.add_reader, self._loop.remove_reader, self._out)
            except OSError:  # how a terminal ends
                return b""
        return b""

    async def skip(self) -> bool:
        """Read what it has said meanwhile, for nobody; whether it can say more."""
        for _ in range(_SKIPPED):
            if self._is_over:
                return False
            try:
                if not os.read(self._out, _CHUNK):
                    return False
            except BlockingIOError:
                break
            except OSError:
                return False
            await asyncio.sleep(0)
        return self.is_alive

    async def write(self, data: bytes) -> bool:
        """Write as fast as it reads; whether it took everything."""
        left = memoryview(data)
        while left and not self._is_over and self._in >= 0:
            try:
                left = left[os.write(self._in, left[:_CHUNK]) :]
                await asyncio.sleep(0)
            except BlockingIOError:
                await self._until(self._loop.add_writer, self._loop.remove_writer, self._in)
            except OSError:
                return False
        return not left

    def close_input(self) -> None:
        if self._in >= 0:
            os.close(self._in)
            self._in = -1

    def _hear(self) -> None:
        try:
            words = os.read(self._err, 64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        if words:
            self._words += words
            del self._words[:-_LAST_WORDS]
        else:
            self._loop.remove_reader(self._err)

    async def _until(self, add: Callable[..., object], remove: Callable[[int], object], descriptor: int) -> None:
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        add(descriptor, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if not self._is_over:
                remove(descriptor)

    # its end

    async def ended(self, patience: float) -> int | None:
        """Its exit code, `None` if it goes on for longer than `patience` seconds."""
        try:
            async with asyncio.timeout(patience):
                code = await asyncio.wrap_future(self.exit)
        except TimeoutError:
            return None
        if not self._is_over:
            self._hear()
        return code

    def end(self) -> None:
        """Ask all of it to end, and have it killed 2 seconds later; returns at once."""
        if self._is_over:
            return
        self._is_over = True
        with self._control_lock, contextlib.suppress(OSError):
            self._control.send(b"T")
        self._wake_all()
        for descriptor in {self._in, self._out, self._err} - {-1}:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.remove_reader(descriptor)
                self._loop.remove_writer(descriptor)
            os.close(descriptor)

    def kill(self) -> None:
        """For one that has not ended in time: its program has stopped whoever was to end it."""
        if self._keeper is not None:
            self._keeper.kill()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
