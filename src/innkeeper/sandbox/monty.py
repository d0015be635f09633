"""Monty: the default sandbox, an interpreter for a part of Python that knows no system to call.

Its child processes are in `monty_worker`; here is the server's end: who waits, what a host function answers, and when
patience ends. `calls` children at most call code, and one more parses, so that to register waits for no call. A call
that a host function of another call makes has a place of its own, as the other keeps its place while it waits.
What is measured as CPU time is the time in which the interpreter works.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Collection, Mapping
from typing import Any, cast

from innkeeper.core.errors import MissingDependency, SetupError, SourceRejected
from innkeeper.ports.sandbox import CodeFailed, HostFunction, LimitExceeded, Limits, Outcome, ToolFunction
from innkeeper.sandbox import levels
from innkeeper.sandbox.children import Child, ChildEnded, Children, python
from innkeeper.sandbox.frames import encode

_PATIENCE = 5.0  # seconds to parse
_START = 15.0  # seconds for the first answer of all


class MontySandbox:
    """Calls at most `calls` functions at a time."""

    def __init__(self, calls: int = 4) -> None:
        command = python("innkeeper.sandbox.monty_worker")
        # Where the interpreter is, if somebody has put it elsewhere; it is the only variable that a child gets.
        environment = {"MONTY_BIN": os.environ["MONTY_BIN"]} if "MONTY_BIN" in os.environ else {}
        self._callers = [Children(command, most, environment) for most in levels.places(calls)]
        self._parsers = Children(command, 1, environment)

    @property
    def pids(self) -> list[int]:
        """Of the children that call code, for tests and for whoever looks after processes."""
        return [pid for children in self._callers for pid in children.pids]

    async def open(self) -> None:
        if sys.platform == "win32":
            raise SetupError("The Monty sandbox needs Linux or macOS.")
        if not _is_installed():
            message = 'The Monty sandbox needs a package that is not installed: pip install "innkeeper[code]"'
            raise MissingDependency(message)
        try:
            async with asyncio.timeout(_START):
                outcome = await self.call("def probe(): return 1", "probe", (), hosts={}, limits=Limits())
        except (CodeFailed, LimitExceeded, OSError, TimeoutError) as error:
            await self.close()
            raise SetupError("The Monty sandbox does not start on this machine.") from error
        assert outcome == Outcome(1)

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
        try:
            async with self._callers[levels.current()].one() as child:
                answer = await _answer(_Call(child, hosts, limits), source, function, arguments)
        except ChildEnded:
            raise CodeFailed("The code ended the process that it ran in.") from None
        if "rejected" in answer:
            raise CodeFailed(f"SyntaxError: {answer['rejected']['reason']} (line {answer['rejected']['line']})")
        if "failed" in answer:
            raise CodeFailed(answer["failed"])
        return Outcome(answer["value"], answer["printed"])

    async def close(self) -> None:
        await asyncio.gather(*(children.close() for children in (*self._callers, self._parsers)))

    async def _check(self, source: str, function: str | None, names: list[str] | None) -> ToolFunction:
        try:
            async with self._parsers.one() as child, asyncio.timeout(_PATIENCE):
                await child.send({"do": "check", "source": source, "function": function, "names": names})
                answer = await child.receive()
        except (TimeoutError, ChildEnded):
            raise SourceRejected("The source takes too much to parse.") from None
        if "rejected" in answer:
            facts = cast("dict[str, Any]", answer["rejected"])
            raise SourceRejected(facts["reason"], line=facts["line"], column=facts["column"])
        return ToolFunction(str(answer["function"]), tuple(cast("list[str]", answer["required"])))


def _is_installed() -> bool:
    """Without importing it, as only children do."""
    try:
        return importlib.util.find_spec("pydantic_monty") is not None
    except ValueError:  # somebody has put something else in its place
        return False


async def _answer(
    call: _Call, source: str, function: str, arguments: Mapping[str, object] | tuple[object, ...]
) -> dict[str, Any]:
    try:
        async with asyncio.timeout(call.limits.wall_seconds) as patience:
            return await call.run(source, function, arguments)
    except TimeoutError:
        if not patience.expired():
            raise
        raise LimitExceeded("wall_seconds") from None
    finally:
        call.abandon()


class _Call:
    """One call in one child; what the code asks of the server is answered beside it."""

    def __init__(self, child: Child, hosts: Mapping[str, HostFunction], limits: Limits) -> None:
        self.limits = limits
        self._child = child
        self._hosts = hosts
        self._count = 0
        self._asked: set[asyncio.Task[None]] = set()

    async def run(
        self, source: str, function: str, arguments: Mapping[str, object] | tuple[object, ...]
    ) -> dict[str, Any]:
        message: dict[str, object] = {"do": "call", "source": source, "function": function, "hosts": list(self._hosts)}
        message["arguments"] = list(arguments) if isinstance(arguments, tuple) else dict(arguments)
        message["limits"] = dataclasses.asdict(self.limits)
        await self._child.send(message)
        while "host" in (answer := await self._child.receive()):
            self._begin(answer)
        if "limit" in answer:
            raise LimitExceeded(str(answer["limit"]))
        if self._asked:
            await asyncio.wait(self._asked)
        self._child.is_worn = bool(answer.get("worn"))
        return answer

    def abandon(self) -> None:
        for task in self._asked:
            task.cancel()

    def _begin(self, message: Mapping[str, Any]) -> None:
        self._count += 1
        if self._count > self.limits.calls:
            raise LimitExceeded("calls")
        task = asyncio.create_task(self._ask(message))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _ask(self, message: Mapping[str, Any]) -> None:
        levels.descend()
        try:
            positional, named = message["arguments"]
            answer = encode({"id": message["id"], "value": await self._hosts[message["host"]](*positional, **named)})
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to the code
            answer = encode({"id": message["id"], "error": str(error) or type(error).__name__})
        with contextlib.suppress(ChildEnded):
            await self._child.write(answer)
