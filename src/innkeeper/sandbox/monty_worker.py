"""The child process of the Monty sandbox: one interpreter, one call at a time.

Monty's interpreter is a process of its own, and its client, which makes Python values of what the interpreter sends,
is here instead of in the server: some values take hundreds of megabytes or end the process that holds them.
Not imported by the server.
"""

from __future__ import annotations

import ast
import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydantic_monty as monty

from innkeeper.core.errors import SourceRejected
from innkeeper.sandbox import sources
from innkeeper.sandbox.frames import HEADER, decode, encode
from innkeeper.sandbox.values import TooDeep, TooLarge, plain

_GRACE = 0.5  # seconds beyond its limit after which an interpreter is killed that does not stop by itself
_MAX_TEXT = 4000  # characters of an exception
_MEMORY = 1024 * 1024 * 1024  # of address space, for this process and the interpreter each
_WORN = 96 * 1024 * 1024  # of memory that a process kept after a call, and so is not asked again
_SUSPENSIONS = 1_000_000  # what counts them is the server, and time
_PARSE = monty.ResourceLimits(max_feed_duration_secs=2.0, max_memory=64 * 1024 * 1024)

_STOP = "innkeeper: parsed"  # raised in front of source that is to be parsed and not executed
_LACKS = "NotImplementedError: The monty syntax parser does not yet support "
_SOURCE_FEED = "<python-input-1>"  # the second of a session
_CALL = (
    "\n__innkeeper_value = {function}({stars}__innkeeper_arguments)\n"
    "await __innkeeper_value if __innkeeper_type(__innkeeper_value).__name__ == 'coroutine' else __innkeeper_value"
)


class _Limit(Exception):
    """The call is over because of this limit."""


class _Failed(Exception):
    """The call is over because the code raised."""


def main() -> None:
    server = _Server()
    _restrict()
    with monty.Monty(min_processes=1, max_processes=1, feed_duration_limit_grace=_GRACE) as pool:
        while (message := server.receive()) is not None:
            if "do" in message:  # and no answer to something that a call did not wait for
                server.send(_answer(pool, server, message))


def _answer(pool: monty.Monty, server: _Server, message: dict[str, Any]) -> dict[str, object]:
    try:
        if message["do"] == "check":
            return _check(pool, message)
        return _Call(server, message).run(pool)
    except SourceRejected as error:
        return {"rejected": error.details}
    except (_Limit, _Failed) as error:
        return {"limit" if isinstance(error, _Limit) else "failed": str(error)}


def _restrict() -> None:
    """What this process and the interpreter may take from the machine, should their own bounds fail."""
    import resource

    with contextlib.suppress(OSError):
        os.nice(5)
    for limit, most in (("RLIMIT_AS", _MEMORY), ("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0)):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            resource.setrlimit(getattr(resource, limit), (most, most))


def _size(pid: int | None) -> int:
    """The memory of a process in bytes, where the system tells it."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class _Server:
    """The other end of standard input and output; both are out of reach for whatever else runs here."""

    def __init__(self) -> None:
        self._input, self._output = os.dup(0), os.dup(1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)

    def send(self, message: dict[str, object]) -> None:
        data = memoryview(encode(message))
        while data:
            data = data[os.write(self._output, data) :]

    def receive(self) -> dict[str, Any] | None:
        """The next message; `None` if the server is gone."""
        header = self._read(HEADER.size)
        body = self._read(HEADER.unpack(header)[0]) if header else b""
        return decode(body) if body else None

    def speaks_within(self, seconds: float | None) -> bool:
        """Whether there is a message before the seconds have passed."""
        return bool(select.select([self._input], [], [], seconds)[0])

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = os.read(self._input, size - len(parts))
            if not part:
                return b""
            parts += part
        return bytes(parts)


# --- checks -----------------------------------------------------------------------------------------------------------


def _check(pool: monty.Monty, message: dict[str, Any]) -> dict[str, object]:
    source, function = message["source"], message["function"]
    if message["names"] is None:
        found = sources.check_handler(source, function)
    else:
        found = sources.check_tool(source, function, message["names"])
    with pool.checkout(limits=_PARSE) as session:
        _parse(session, source)
        _find_modules(session, sources.parse(source))
    return {"function": found.function, "required": found.required}


def _parse(session: monty.MontySession, source: str) -> None:
    """Monty parses all before it executes the first line, which is ours and raises."""
    try:
        session.feed_run(f"raise ValueError({_STOP!r})\n{source}")
    except (monty.MontySyntaxError, monty.MontyRuntimeError) as error:
        text = str(error)
        if text == f"ValueError: {_STOP}":
            return
        frames = error.traceback()
        line, column = (frames[-1].line - 1, frames[-1].column) if frames else (1, 1)
        reason = f"This sandbox does not support {text.removeprefix(_LACKS)}." if text.startswith(_LACKS) else text
        raise SourceRejected(reason[:_MAX_TEXT], line=max(line, 1), column=column) from None
    except monty.MontyError:
        raise SourceRejected("This sandbox cannot parse the source.") from None


def _find_modules(session: monty.MontySession, tree: ast.Module) -> None:
    """Imports each module that the source names, and nothing of the source."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    places = {name: node for node in reversed(imports) for name in _modules(node)}
    for name, node in places.items():
        try:
            session.feed_run(f"import {name}")
        except monty.MontyError:
            reason = f"There is no module {name!r} in this sandbox."
            raise SourceRejected(reason, line=node.lineno, column=node.col_offset + 1) from None


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    match node:
        case ast.Import():
            return [one.name for one in node.names]
        case ast.ImportFrom(module=str(name), level=0) if name != "__future__":
            return [name]
        case _:
            return []


# --- calls ------------------------------------------------------------------------------------------------------------


class _Call:
    """One call, from its source to its answer."""

    def __init__(self, server: _Server, message: dict[str, Any]) -> None:
        self._server = server
        self._source: str = message["source"]
        self._function: str = message["function"]
        self._arguments: object = message["arguments"]
        self._hosts = {name: _named(name) for name in message["hosts"]}
        self._limits: Mapping[str, Any] = message["limits"]
        self._printed = monty.CollectString(self._limits["output"])
        self._spans = _async_spans(self._source)
        self._answers: dict[int, monty.ExternalSettledResult] = {}
        self._alarms: dict[int, float] = {}

    def run(self, pool: monty.Monty) -> dict[str, object]:
        limits = monty.ResourceLimits(
            max_feed_duration_secs=self._limits["cpu_seconds"],
            max_memory=self._limits["memory"],
            max_suspensions=_SUSPENSIONS,
        )
        try:
            with pool.checkout(limits=limits, os_policy={"sleep": "call_host"}) as session:
                value = self._drive(session)
                is_worn = _size(session.worker_pid) > _WORN
        except monty.MontyError as error:
            raise self._ending(error) from None
        printed = self._printed.output
        left = int(self._limits["output"]) - len(printed.encode("utf-8", "replace"))
        return {"value": self._plain(value, left), "printed": printed, "worn": is_worn or _size(os.getpid()) > _WORN}

    def _drive(self, session: monty.MontySession) -> object:
        session.feed_run("__innkeeper_type = type")
        call = _CALL.format(function=self._function, stars="**" if isinstance(self._arguments, dict) else "*")
        inputs = {"__innkeeper_arguments": self._arguments}
        step = session.feed_start(self._source + call, inputs=inputs, print_callback=self._printed)
        while True:
            match step:
                case monty.MontyComplete():
                    return step.output
                case monty.NameLookupSnapshot():
                    host = self._hosts.get(step.variable_name)
                    step = step.resume(value=host) if host else step.resume()
                case monty.FunctionSnapshot():
                    step = self._call(step)
                case monty.FutureSnapshot():
                    step = step.resume(self._take(step.pending_call_ids))

    def _call(self, step: monty.FunctionSnapshot) -> monty.SyncSnapshot:
        if step.is_os_function:
            return self._call_system(step)
        if step.function_name not in self._hosts:
            return step.resume({"exc_type": "NameError", "message": f"name {step.function_name!r} is not defined"})
        try:
            arguments = self._plain([list(step.args), step.kwargs], int(self._limits["output"]))
        except _Failed as error:
            return step.resume({"exc_type": "ValueError", "message": str(error)})
        self._server.send({"host": step.function_name, "id": step.call_id, "arguments": arguments})
        if self._is_awaited(step.position):
            return step.resume({"future": ...})
        return step.resume(self._take([step.call_id])[step.call_id])

    def _call_system(self, step: monty.FunctionSnapshot) -> monty.SyncSnapshot:
        """Nothing of the system is offered but time that passes."""
        if step.function_name not in ("time.sleep", "asyncio.sleep"):
            return step.resume_not_handled()
        self._alarms[step.call_id] = time.monotonic() + float(step.args[0])
        if step.function_name == "asyncio.sleep":
            return step.resume({"future": ...})
        return step.resume(self._take([step.call_id])[step.call_id])

    def _is_awaited(self, position: monty.SourceRange) -> bool:
        if position.filename != _SOURCE_FEED:
            return False
        around = [span for span in self._spans if span[0] <= position.start < span[1]]
        return bool(around) and max(around)[2]

    def _take(self, wanted: list[int]) -> dict[int, monty.ExternalSettledResult]:
        """Those of the wanted answers that have come; waits for the first."""
        while True:
            now = time.monotonic()
            for call_id in [one for one in wanted if self._alarms.get(one, now + 1) <= now]:
                del self._alarms[call_id]
                self._answers[call_id] = {"return_value": None}
            if ready := {one: self._answers.pop(one) for one in wanted if one in self._answers}:
                return ready
            alarms = [self._alarms[one] for one in wanted if one in self._alarms]
            if self._server.speaks_within(max(min(alarms) - now, 0) if alarms else None):
                self._hear()

    def _hear(self) -> None:
        message = self._server.receive()
        if message is None:
            sys.exit()
        self._answers[message["id"]] = (
            {"exc_type": "RuntimeError", "message": message["error"]}
            if "error" in message
            else {"return_value": message["value"]}
        )

    def _plain(self, value: object, size: int) -> object:
        try:
            return plain(value, size, _text)
        except TooLarge:
            raise _Limit("output") from None
        except TooDeep as error:
            raise _Failed(str(error)) from None

    def _ending(self, error: monty.MontyError) -> Exception:
        """What ended the call: Monty tells it by the texts of its exceptions."""
        text = str(error)[:_MAX_TEXT]
        if isinstance(error, monty.MontyCrashedError):
            return (
                _Limit("cpu_seconds") if "timeout" in text or "limit" in text else _Failed("The interpreter crashed.")
            )
        if text.startswith("TimeoutError: feed time limit exceeded"):
            return _Limit("cpu_seconds")
        if text.startswith("RecursionError: "):
            return _Limit("recursion")
        if text.startswith(("MemoryError: memory limit exceeded", "MemoryError: the worker exceeded")):
            return _Limit("output" if text.endswith(f"> {self._limits['output']} bytes") else "memory")
        if isinstance(error, monty.MontyRuntimeError) and (frames := error.traceback()):
            lines = [frame.line for frame in frames[-50:] if frame.filename == _SOURCE_FEED]
            text += f" (line {lines[-1]})" if lines else ""
        return _Failed(text)


def _text(value: object) -> str:
    """Of what exists in the interpreter only, and is a stand-in here."""
    match value:
        case monty.MontyClassProxy():
            return f"<{value.name} object>"
        case monty.MontyStdTypeProxy():
            return f"<{value.kind} {value.name}>"
        case _:
            return str(value)


def _named(name: str) -> Callable[[], None]:
    """Monty knows a function of the host by its name only."""

    def function() -> None: ...

    function.__name__ = name
    return function


def _async_spans(source: str) -> list[tuple[int, int, bool]]:
    """Where bodies of functions begin and end, in bytes, and whether they are those of an `async def`."""
    starts = [0]
    for line in source.encode("utf-8", "replace").splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    spans = []
    for node in ast.walk(sources.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            first, last = (node.body[0], node.body[-1]) if isinstance(node.body, list) else (node.body, node.body)
            end = starts[(last.end_lineno or 1) - 1] + (last.end_col_offset or 0)
            begin = starts[first.lineno - 1] + first.col_offset
            spans.append((begin, end, isinstance(node, ast.AsyncFunctionDef)))
    return spans
