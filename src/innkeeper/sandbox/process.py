"""Process: a sandbox with all of CPython, in processes that the kernel confines.

Each check and each call has a process of its own, forked inside of bubblewrap by `process_worker` (`bubbles` is the
command that starts it, `forks` the server's end of it), which may make few system calls and finds few files. Here is
what the server asks of such a process, and what it believes: nothing but that an answer came, or how the process ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import signal
import sys
from collections.abc import Collection, Mapping
from typing import Any

from innkeeper.core.errors import SetupError, SourceRejected
from innkeeper.ports.sandbox import CodeFailed, HostFunction, LimitExceeded, Limits, Outcome, ToolFunction
from innkeeper.sandbox import bubbles, levels, system_calls
from innkeeper.sandbox.forks import End, Fork, Gone, Nonsense, Worker
from innkeeper.sandbox.frames import encode
from innkeeper.sandbox.values import TooLarge

_PARSING = Limits(cpu_seconds=2.0, wall_seconds=5.0)
_MAX_TEXT = 5000  # characters of an exception
_BROKEN = "The code broke what connects its process with the server."
_MAX_ASKED = 64  # host functions that one call may wait for before the next is heard

_HELP = (
    "It needs user namespaces: see that kernel.unprivileged_userns_clone and user.max_user_namespaces allow them, on"
    " Ubuntu kernel.apparmor_restrict_unprivileged_userns, and in Docker --security-opt seccomp=unconfined."
    " Or choose the sandbox monty."
)
_PROBE = """
import ctypes, os, socket

def probe(path):
    found = []
    for name, attempt in (
        ("files", lambda: open(path)),
        ("writing", lambda: open("/left-behind", "w")),
        ("a socket", socket.socket),
        ("forks", os.fork),
        ("programs", lambda: os.execv("/python/bin/python3", ["python3", "-V"])),
    ):
        try:
            attempt()
        except OSError:
            continue
        found.append(name)
    if ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0:
        found.append("system calls")
    return found + sorted(os.environ)
"""


class ProcessSandbox:
    """Calls at most `calls` functions at a time, and checks one source beside them.

    A call that a host function of another call makes has a place of its own, as the other keeps its place meanwhile.
    """

    def __init__(self, calls: int = 4) -> None:
        self._calls = [asyncio.Semaphore(most) for most in levels.places(calls)]
        self._checks = asyncio.Semaphore(1)
        self._worker: Worker | None = None

    @property
    def pid(self) -> int | None:
        """Of bubblewrap, whose one child is the worker, for tests and for whoever looks after processes."""
        return self._worker.pid if self._worker is not None else None

    async def open(self) -> None:
        machine = platform.machine()
        if sys.platform != "linux" or not system_calls.is_known(machine):
            where = f"{platform.system()} on {machine}"
            raise SetupError(f"The process sandbox needs Linux on x86_64 or aarch64, and this is {where}. Use monty.")
        command = await asyncio.to_thread(bubbles.command, bubbles.find())
        self._worker = Worker(command, system_calls.program(machine, forks=True))
        try:
            await self._worker.start()
            outcome = await self.call(_PROBE, "probe", (__file__,), hosts={}, limits=Limits())
        except (SetupError, CodeFailed, LimitExceeded, OSError) as error:
            await self.close()
            raise SetupError(f"The process sandbox does not start on this machine: {error} {_HELP}") from error
        if outcome.value:
            await self.close()
            raise SetupError(f"The process sandbox does not confine code on this machine: it has {outcome.value}.")

    async def check_tool(self, source: str, function: str | None, names: Collection[str]) -> ToolFunction:
        return await self._check(source, function, list(names))

    async def check_handler(self, source: str, function: str | None) -> str:
        return (await self._check(source, function, None)).name

    async def call(
        self,
        source: str,
        function: str,
        arguments: Mapping[str, object] | tuple[object, ...],
        *,
        hosts: Mapping[str, HostFunction],
        limits: Limits,
    ) -> Outcome:
        request: dict[str, object] = {"do": "call", "source": source, "function": function, "hosts": list(hosts)}
        request["arguments"] = list(arguments) if isinstance(arguments, tuple) else dict(arguments)
        return _outcome(await self._answer(request, hosts, limits, self._calls[levels.current()]))

    async def close(self) -> None:
        if self._worker is not None:
            await self._worker.close()

    async def _check(self, source: str, function: str | None, names: list[str] | None) -> ToolFunction:
        request: dict[str, object] = {"do": "check", "source": source, "function": function, "names": names}
        try:
            answer = await self._answer(request, {}, _PARSING, self._checks)
        except (CodeFailed, LimitExceeded):
            raise SourceRejected("The source takes too much to parse.") from None
        match answer:
            case {"function": str(found), "required": [*required]}:
                return ToolFunction(found, tuple(map(str, required)))
            case {"rejected": {"reason": str(reason), "line": int(line), "column": int(column)}}:
                raise SourceRejected(reason, line=line, column=column)
        raise SourceRejected("The source takes too much to parse.")

    async def _answer(
        self,
        request: dict[str, object],
        hosts: Mapping[str, HostFunction],
        limits: Limits,
        free: asyncio.Semaphore,
    ) -> dict[str, Any]:
        assert self._worker is not None, "it was opened"
        fork = await self._worker.fork(limits, free)
        call = _Call(fork, hosts, limits)
        try:
            async with asyncio.timeout(limits.wall_seconds) as patience:
                return await call.run(request)
        except TimeoutError:
            if not patience.expired():
                raise
            raise LimitExceeded("wall_seconds") from None
        except TooLarge:
            raise LimitExceeded("output") from None
        except Nonsense:
            raise CodeFailed(_BROKEN) from None
        finally:
            call.abandon()
            await self._worker.leave(fork)


class _Call:
    """One conversation with one fork; what the code asks of the server is answered beside it."""

    def __init__(self, fork: Fork, hosts: Mapping[str, HostFunction], limits: Limits) -> None:
        self._fork = fork
        self._hosts = hosts
        self._limits = limits
        self._count = 0
        self._asked: set[asyncio.Task[None]] = set()

    async def run(self, request: dict[str, object]) -> dict[str, Any]:
        try:
            await self._fork.write(encode(request))
            while "host" in (answer := await self._fork.receive(self._limits.output)):
                await self._begin(answer)
        except Gone:
            raise _ending(await asyncio.shield(self._fork.ended), self._limits) from None
        if self._asked and "limit" not in answer:
            await asyncio.wait(self._asked)
        return answer

    def abandon(self) -> None:
        for task in self._asked:
            task.cancel()

    async def _begin(self, message: Mapping[str, Any]) -> None:
        self._count += 1
        if self._count > self._limits.calls:
            raise LimitExceeded("calls")
        if len(self._asked) >= _MAX_ASKED:
            await asyncio.wait(self._asked, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self._ask(*_question(message, self._hosts)))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _ask(self, number: int, host: HostFunction, positional: list[Any], named: dict[str, Any]) -> None:
        levels.descend()
        try:
            answer = encode({"id": number, "value": await host(*positional, **named)})
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to the code
            answer = encode({"id": number, "error": str(error) or type(error).__name__})
        with contextlib.suppress(Gone):
            await self._fork.write(answer)


def _question(
    message: Mapping[str, Any], hosts: Mapping[str, HostFunction]
) -> tuple[int, HostFunction, list[Any], dict[str, Any]]:
    match message:
        case {"host": str(name), "id": int(number), "arguments": [list(positional), dict(named)]} if name in hosts:
            return number, hosts[name], positional, named
    raise Nonsense


def _outcome(answer: Mapping[str, Any]) -> Outcome:
    match answer:
        case {"limit": "memory" | "output" | "recursion" as limit}:
            raise LimitExceeded(limit)
        case {"failed": str(text)}:
            raise CodeFailed(text[:_MAX_TEXT])
        case {"value": value, "printed": str(printed)}:
            return Outcome(value, printed)
    raise CodeFailed(_BROKEN)


def _ending(end: End, limits: Limits) -> Exception:
    """Why a process is gone that gave no answer."""
    if end.is_lost:
        return CodeFailed("The sandbox ended while the code ran.")
    if end.signal in (signal.SIGKILL, signal.SIGXCPU):
        # Whatever else kills here is the kernel that has no memory left.
        return LimitExceeded("cpu_seconds" if end.cpu >= 0.9 * limits.cpu_seconds else "memory")
    if end.signal:
        return CodeFailed(f"The code crashed the process that it ran in, by {signal.Signals(end.signal).name}.")
    return CodeFailed("The code ended the process that it ran in.")
