"""One check or one call of the process sandbox, in the process that was forked for it.

Whatever runs here may do to this process what it likes, which includes lying to the server about its own call: the
server believes nothing that comes from here. Not imported by the server; standard library only.
Invariant: this process never returns to what it was forked from.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import inspect
import io
import json
import os
import select
import sys
import types
import warnings
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, NoReturn

from innkeeper.core.errors import SourceRejected
from innkeeper.sandbox import sources
from innkeeper.sandbox.frames import HEADER, decode
from innkeeper.sandbox.values import TooDeep, TooLarge, plain

CHANNEL = 3
_FILE = "<source>"
_MODULE = "source"
_MAX_TEXT = 4000  # characters of an exception
_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_INLINE = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}


def _encode(message: dict[str, object]) -> bytes:
    """Shorter than what the server sends, as the server counts the bytes."""
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    return HEADER.pack(len(body)) + body


_OUT_OF = {"output": _encode({"limit": "output"}), "memory": _encode({"limit": "memory"})}


def answer(limits: Mapping[str, Any]) -> NoReturn:
    channel = _Channel()
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None
    try:
        request = channel.receive()
        frame = _encode(_check(request) if request["do"] == "check" else _Call(channel, request, limits).run())
    except MemoryError:
        frame = _OUT_OF["memory"]
    channel.send(frame if len(frame) <= limits["frame"] else _OUT_OF["output"])
    os._exit(0)


class _Channel:
    """The stream to and from the server; whoever waits to write reads meanwhile, so that both ends never wait."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self) -> dict[str, Any]:
        while not (messages := self.received(wait=True)):
            pass
        return messages[0]

    def received(self, *, wait: bool = False) -> list[dict[str, Any]]:
        """What has come; with `wait`, at least something of it."""
        if wait:
            select.select([CHANNEL], [], [])
        with contextlib.suppress(BlockingIOError):
            while self._read():
                pass
        return list(self._messages())

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(CHANNEL, rest) :]
            except BlockingIOError:
                readable, _, _ = select.select([CHANNEL], [CHANNEL], [])
                if readable:
                    self._read()

    def _read(self) -> int:
        part = os.read(CHANNEL, 65536)
        if not part:
            os._exit(0)
        self._buffer += part
        return len(part)

    def _messages(self) -> Iterator[dict[str, Any]]:
        while len(self._buffer) >= HEADER.size:
            end = HEADER.size + HEADER.unpack(self._buffer[: HEADER.size])[0]
            if len(self._buffer) < end:
                return
            yield decode(bytes(self._buffer[HEADER.size : end]))
            del self._buffer[:end]


# --- checks -----------------------------------------------------------------------------------------------------------


def _check(request: Mapping[str, Any]) -> dict[str, object]:
    try:
        source, function = request["source"], request["function"]
        if request["names"] is None:
            found = sources.check_handler(source, function)
        else:
            found = sources.check_tool(source, function, request["names"])
        _compile(source)
        _find_modules(sources.parse(source))
    except SourceRejected as error:
        return {"rejected": error.details}
    except (MemoryError, RecursionError):
        return {"rejected": SourceRejected("The source takes too much to parse.").details}
    return {"function": found.function, "required": found.required}


def _compile(source: str) -> None:
    """Finds what the parser lets pass, as a `return` outside of functions."""
    try:
        compile(source, _FILE, "exec", dont_inherit=True)
    except SyntaxError as error:
        reason = f"{error.msg[:1].upper()}{error.msg[1:]}."
        raise SourceRejected(reason, line=max(error.lineno or 1, 1), column=max(error.offset or 1, 1)) from None


def _find_modules(node: ast.AST) -> None:
    """Looks for what is imported without importing it; code that tries an import is prepared for its absence."""
    for child in ast.iter_child_nodes(node):
        for name in _modules(child):
            if importlib.util.find_spec(name.partition(".")[0]) is None:
                reason = f"There is no module {name!r} in this sandbox."
                line, column = getattr(child, "lineno", 1), getattr(child, "col_offset", 0) + 1
                raise SourceRejected(reason, line=line, column=column)
        if not isinstance(child, ast.Try):
            _find_modules(child)


def _modules(node: ast.AST) -> list[str]:
    match node:
        case ast.Import():
            return [one.name for one in node.names]
        case ast.ImportFrom(module=str(name), level=0):
            return [name]
        case _:
            return []


# --- calls ------------------------------------------------------------------------------------------------------------


class _Call:
    """One call, from its source to its answer."""

    def __init__(self, channel: _Channel, request: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
        self._channel = channel
        self._request = request
        self._most: int = limits["output"]
        self._most_of_a_frame: int = limits["frame"]
        self._printed = _Printed(self._most, lambda: self._end("output"))
        self._count = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._futures: dict[int, asyncio.Future[object]] = {}

    def run(self) -> dict[str, object]:
        sys.stdout = sys.stderr = self._printed
        try:
            value = plain(self._value(), self._most - self._printed.size)
            return {"value": value, "printed": self._printed.text()}
        except MemoryError:
            self._end("memory")
        except TooLarge:
            self._end("output")
        except RecursionError:
            return {"limit": "recursion"}
        except TooDeep as error:
            return {"failed": str(error)}
        except BaseException as error:  # noqa: BLE001 - whatever it is, the code raised it
            return {"failed": _told(error)}

    def _value(self) -> object:
        module = types.ModuleType(_MODULE)
        sys.modules[_MODULE] = module
        names = vars(module)
        names.update((name, self._host(name)) for name in self._request["hosts"])
        exec(compile(self._request["source"], _FILE, "exec", dont_inherit=True), names)  # noqa: S102
        name, arguments = self._request["function"], self._request["arguments"]
        if name not in names:
            raise NameError(f"name {name!r} is not defined")
        result = names[name](**arguments) if isinstance(arguments, dict) else names[name](*arguments)
        return self._awaited(result) if inspect.iscoroutine(result) else result

    def _awaited(self, coroutine: Coroutine[Any, Any, object]) -> object:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        return loop.run_until_complete(coroutine)

    def _end(self, limit: str) -> NoReturn:
        """Without returning to code that could go on."""
        self._channel.send(_OUT_OF[limit])
        os._exit(0)

    # host functions

    def _host(self, name: str) -> Callable[..., object]:
        def function(*positional: object, **named: object) -> object:
            number = self._ask(name, positional, named)
            return self._promise(number) if _is_awaited(sys._getframe(1)) else self._wait(number)

        function.__name__ = function.__qualname__ = name
        return function

    def _ask(self, name: str, positional: tuple[object, ...], named: dict[str, object]) -> int:
        self._count += 1
        try:
            arguments = plain([list(positional), named], self._most)
        except TooLarge:
            self._end("output")
        except TooDeep as error:
            raise ValueError(str(error)) from None
        frame = _encode({"host": name, "id": self._count, "arguments": arguments})
        if len(frame) > self._most_of_a_frame:
            self._end("output")
        self._channel.send(frame)
        return self._count

    def _wait(self, number: int) -> object:
        while number not in self._answers:
            self._take(wait=True)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def _promise(self, number: int) -> asyncio.Future[object]:
        loop = asyncio.get_running_loop()
        loop.add_reader(CHANNEL, self._take)
        future = self._futures[number] = loop.create_future()
        self._take()  # an answer that was read while this or another question was written announces itself to no loop
        return future

    def _take(self, *, wait: bool = False) -> None:
        for message in self._channel.received(wait=wait):
            self._answers[message["id"]] = message
        for number in self._answers.keys() & self._futures.keys():
            future, answer = self._futures.pop(number), self._answers.pop(number)
            if future.done():
                continue
            if "error" in answer:
                future.set_exception(RuntimeError(answer["error"]))
            else:
                future.set_result(answer["value"])


class _Printed(io.TextIOBase):
    """What code prints, until it is too much."""

    def __init__(self, most: int, end: Callable[[], NoReturn]) -> None:
        self._most = most
        self._end = end
        self._parts: list[str] = []
        self.size = 0

    def write(self, text: str) -> int:
        part = text.encode("utf-8", "replace")
        self.size += len(part)
        if self.size > self._most:
            self._end()
        self._parts.append(part.decode())
        return len(text)

    def text(self) -> str:
        return "".join(self._parts)


def _is_awaited(frame: types.FrameType | None) -> bool:
    """Whether the call stands inside of `async def`: a comprehension there may be a frame of its own."""
    while frame is not None and frame.f_code.co_name in _INLINE and not frame.f_code.co_flags & _ASYNC:
        frame = frame.f_back
    return frame is not None and bool(frame.f_code.co_flags & _ASYNC)


def _told(error: BaseException) -> str:
    try:
        name, text = type(error).__name__, str(error)
        line = _line(error)
        told = f"{name}: {text}"[:_MAX_TEXT] if text else name
        return f"{told} (line {line})" if line else told
    except BaseException:  # noqa: BLE001 - the text of an exception is code of a client's too
        return "An exception that cannot be told."


def _line(error: BaseException) -> int | None:
    if isinstance(error, SyntaxError) and error.filename == _FILE:
        return None  # its own text says so
    place, line = error.__traceback__, None
    while place is not None:
        line = place.tb_lineno if place.tb_frame.f_code.co_filename == _FILE else line
        place = place.tb_next
    return line
