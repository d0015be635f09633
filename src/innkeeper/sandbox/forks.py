"""Forks: the server's end of the process sandbox's worker, and of the processes that it forks.

The worker is started when it is first needed, and again when it is gone. Its packets are believed, as no code of a
client's runs in it; what comes over the stream of a fork is hostile.
Invariant: a fork that is left is killed, and its place is free once it is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from innkeeper.core.errors import SetupError, ShuttingDown
from innkeeper.ports.sandbox import Limits
from innkeeper.sandbox.frames import HEADER, decode
from innkeeper.sandbox.values import TooDeep, TooLarge, plain

_START = 15.0  # seconds until the worker must be ready
_DEATH = 5.0  # seconds in which the killed must be dead
_INLINE = 64 * 1024  # bytes of JSON that are read on the event loop
_AROUND = 32 * 1024  # bytes of a message around what the code prints, returns, or hands over; or of an exception

Command = Callable[[int, int], list[str]]
"""Of the descriptors of a seccomp program and of the worker's socket."""


class Nonsense(Exception):
    """The fork sent what no honest one would."""


class Gone(Exception):
    """The stream has ended."""


@dataclass(frozen=True, slots=True)
class End:
    """How a fork ended: `signal` is 0 where none ended it, `cpu` what it used, in seconds."""

    signal: int = 0
    cpu: float = 0.0
    is_lost: bool = False
    """Whether the worker ended with it."""


class Fork:
    """One process, and the frames to and from it."""

    def __init__(
        self, number: int, ended: asyncio.Future[End], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.ended = ended
        self._reader = reader
        self._writer = writer

    async def write(self, frame: bytes) -> None:
        try:
            self._writer.write(frame)
            await self._writer.drain()
        except (OSError, RuntimeError) as error:  # uvloop says RuntimeError for a transport that is closed
            raise Gone from error

    async def receive(self, most: int) -> dict[str, Any]:
        """The next message, made plain. Raises TooLarge for one of more than `most` bytes; Nonsense, Gone."""
        try:
            (size,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            if size > _most_of_a_frame(most):
                raise TooLarge
            body = await self._reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Gone from error
        return _message(body, most) if size <= _INLINE else await asyncio.to_thread(_message, body, most)

    def close(self) -> None:
        self._writer.close()


class Worker:
    """`most` forks at a time; others wait."""

    def __init__(self, command: Command, program: bytes) -> None:
        self._command = command
        self._program = program
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._forks: dict[int, asyncio.Future[End]] = {}
        self._count = 0
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Nothing, where it lives. Raises: SetupError with what bubblewrap said."""
        async with self._starting:
            if self._is_closed:
                raise ShuttingDown("The server is stopping and calls no more code.")
            if self._control is None:
                await self._begin()

    async def fork(self, limits: Limits, free: asyncio.Semaphore) -> Fork:
        """A process that waits for its first frame; it keeps its place in `free` until it is dead."""
        await free.acquire()
        try:
            number, ended, ours = await self._ordered(limits)
        except BaseException:
            free.release()
            raise
        ended.add_done_callback(lambda _: free.release())
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            self._kill(number)
            raise
        return Fork(number, ended, reader, writer)

    async def leave(self, fork: Fork) -> None:
        """Kill it, if it is not dead, and wait for its death."""
        fork.close()
        self._kill(fork.number)
        await asyncio.shield(fork.ended)

    async def close(self) -> None:
        self._is_closed = True
        async with self._starting:
            process = self._process
            self._lose()
        if process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DEATH):
                    await process.wait()

    # the worker

    async def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs, _readable(self._program) as program:
            try:
                self._process = process = await self._spawn(program, theirs.fileno())
            except BaseException:
                ours.close()
                raise
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(ours, ready.set)
        self._control = ours
        said = b""
        try:
            async with asyncio.timeout(_START):
                await ready.wait()
                is_ready = b"ready" in ours.recv(4096)
                if not is_ready:
                    assert process.stderr is not None
                    said = await process.stderr.read(4096)
        except BaseException as error:
            self._lose()
            if isinstance(error, TimeoutError):
                raise SetupError("The process sandbox did not start in time.") from None
            raise
        if not is_ready:
            self._lose()
            raise SetupError(said.decode(errors="replace").strip() or "It ended without a word.")
        loop.add_reader(ours, self._hear, ours)

    async def _spawn(self, program: int, control: int) -> asyncio.subprocess.Process:
        nowhere = asyncio.subprocess.DEVNULL
        return await asyncio.create_subprocess_exec(
            *self._command(program, control),
            stdin=nowhere,
            stdout=nowhere,
            stderr=asyncio.subprocess.PIPE,
            env={},
            pass_fds=(program, control),
            start_new_session=True,
        )

    def _lose(self) -> None:
        """End the worker and all that it forked."""
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        for ended in self._forks.values():
            ended.set_result(End(is_lost=True))
        self._forks.clear()

    def _hear(self, control: socket.socket) -> None:
        try:
            packet = control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._lose()
            return
        message = json.loads(packet)
        if ended := self._forks.pop(message["ended"], None):
            status = message["status"]
            ended.set_result(End(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, message["cpu"]))

    # its forks

    async def _ordered(
        self, limits: Limits, *, is_again: bool = False
    ) -> tuple[int, asyncio.Future[End], socket.socket]:
        """A fork of the worker, and our end of its stream; of another worker, where this one has died unnoticed."""
        await self.start()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        with theirs:
            try:
                return *self._order(limits, theirs), ours
            except OSError:
                ours.close()
                if is_again:
                    raise
        return await self._ordered(limits, is_again=True)

    def _order(self, limits: Limits, theirs: socket.socket) -> tuple[int, asyncio.Future[End]]:
        assert self._control is not None
        self._count += 1
        told = {**dataclasses.asdict(limits), "frame": _most_of_a_frame(limits.output)}
        packet = json.dumps({"fork": self._count, "limits": told}).encode()
        try:
            socket.send_fds(self._control, [packet], [theirs.fileno()])
        except OSError:
            self._lose()
            raise
        ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._forks[self._count] = ended
        return self._count, ended

    def _kill(self, number: int) -> None:
        if number not in self._forks or self._control is None:
            return
        try:
            self._control.send(json.dumps({"end": number}).encode())
        except OSError:
            self._lose()
            return
        patience = asyncio.get_running_loop().call_later(_DEATH, self._lose)
        self._forks[number].add_done_callback(lambda _: patience.cancel())


def _most_of_a_frame(most: int) -> int:
    """Of a message with so many bytes of text, each of which JSON may have to escape."""
    return 2 * (most + _AROUND)


def _message(body: bytes, most: int) -> dict[str, Any]:
    try:
        message = plain(decode(body), most + _AROUND)
    except (ValueError, RecursionError, TooDeep) as error:
        raise Nonsense from error
    assert isinstance(message, dict)
    return message


@contextlib.contextmanager
def _readable(data: bytes) -> Iterator[int]:
    """A descriptor from which these bytes can be read; they fit into a pipe."""
    readable, writable = os.pipe()
    os.write(writable, data)
    os.close(writable)
    try:
        yield readable
    finally:
        os.close(readable)
