"""Frames: what the body of an HTTP response object says, server-sent events included.

Agents may return the response objects of Starlette and FastAPI. They are known by the module of their
class, so that a server whose agents never do so need not look at them.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

from innkeeper.runtimes.chunks import ErrorChunk, value_of

DONE = "[DONE]"
_LINE_END = re.compile(r"\r\n|\r|\n")
_MODULES = ("starlette.responses", "fastapi.responses", "fastapi.sse", "sse_starlette.sse")


def is_response(item: object) -> bool:
    """Whether `item` is an HTTP response object."""
    return any(kind.__module__ in _MODULES and kind.__name__.endswith("Response") for kind in type(item).__mro__)


class FrameReader:
    """Server-sent events out of text that arrives in any pieces."""

    def __init__(self) -> None:
        self._rest = ""
        self._data: list[str] = []
        self._event = ""

    def feed(self, text: str) -> Iterator[object]:
        """The values of the frames that `text` completes, `DONE` among them.

        Raises: ErrorChunk at a frame whose event is called `error`.
        """
        text = self._rest + text
        lines = _LINE_END.split(text)
        self._rest = lines.pop()
        if text.endswith("\r"):  # the other half of a line end may follow
            self._rest = lines.pop() + "\r"
        for line in lines:
            if line:
                self._note(line)
            elif self._data or self._event:
                yield from self._complete()

    def flush(self) -> Iterator[object]:
        """The value of a last frame that no blank line ended."""
        yield from self.feed("\n\n")

    def _note(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value

    def _complete(self) -> Iterator[object]:
        data, event = "\n".join(self._data), self._event
        self._data, self._event = [], ""
        if data:
            value = frame_value(data)
            if event == "error":
                raise ErrorChunk(value_of(value, "error") or value)
            yield value


def frame_value(data: str) -> object:
    """The JSON value of a frame's data, or the data itself where it is text."""
    if data.strip() == DONE:
        return DONE
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return value if isinstance(value, Mapping | str) else data


async def body_values(response: object) -> AsyncGenerator[object, None]:
    """What the response's body says, piece by piece: text, or the values of its frames.

    Raises: ErrorChunk if the response's status is one of an error.
    """
    status = value_of(response, "status_code")
    if isinstance(status, int) and status >= 400:
        raise ErrorChunk(f"The agent returned a response with status {status}.")
    pieces: AsyncIterator[object] | None = getattr(response, "body_iterator", None)
    if pieces is None:
        yield _whole_body(response)
    elif not _media_type(response).startswith("text/event-stream"):
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async for piece in pieces:
            yield _text(piece, decoder)
        yield decoder.decode(b"", True)
    else:
        async for value in _frame_values(response, pieces):
            if value == DONE:
                break
            yield value


async def _frame_values(response: object, pieces: AsyncIterator[object]) -> AsyncGenerator[object, None]:
    decoder, frames = codecs.getincrementaldecoder("utf-8")("replace"), FrameReader()
    is_framed = not any(kind.__module__.startswith("sse_starlette") for kind in type(response).__mro__)
    async for piece in pieces:
        if isinstance(piece, str | bytes | memoryview) and (is_framed or not isinstance(piece, str)):
            for value in frames.feed(_text(piece, decoder)):
                yield value
        else:  # sse_starlette makes frames of plain values only when it sends them
            data = piece if isinstance(piece, str) else value_of(piece, "data")
            yield frame_value(data) if isinstance(data, str) else data or piece
    for value in frames.flush():
        yield value


def _text(piece: object, decoder: codecs.IncrementalDecoder) -> str:
    if isinstance(piece, str):
        return piece
    return decoder.decode(bytes(piece)) if isinstance(piece, bytes | bytearray | memoryview) else str(piece)


def _whole_body(response: object) -> object:
    body = value_of(response, "body")
    if not isinstance(body, bytes | memoryview):
        raise ErrorChunk(f"The agent returned a {type(response).__name__}, which has no text to read.")
    text = bytes(body).decode("utf-8", "replace")
    return frame_value(text) if "json" in _media_type(response) else text


def _media_type(response: object) -> str:
    headers = value_of(response, "headers")
    return str(value_of(response, "media_type") or value_of(headers, "content-type") or "").lower()
