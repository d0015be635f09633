"""Uploads: bodies that are streamed, raw or as `multipart/form-data`, within bounds and never whole in memory.

A form is read part by part, in the order in which it comes; a file of it is handed on in pieces as they arrive. What a
client calls a file, and what it says of its type, is kept as text and trusted with nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope

from innkeeper.core.errors import Invalid, PayloadTooLarge, Unparsable, UnsupportedMediaType

# A line a broken form would be the clients' to write; they are told in the answer.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

MAX_FIELD = 1024 * 1024
"""Bytes of a form's field that is no file."""
_MAX_FIELDS = 50
_MAX_NAME = 1024
_OVERHEAD = 64 * 1024
"""What a form may have beside its files and fields."""


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


def check_head(scope: Scope, limit: int) -> None:
    """Refuse at once what is told to be too large, or is compressed. Raises: PayloadTooLarge, UnsupportedMediaType."""
    length = _header(scope, b"content-length")
    if length.isdigit() and int(length) > limit:
        raise PayloadTooLarge(f"The body is larger than {limit} bytes, which is the most that this route takes.")
    if _header(scope, b"content-encoding").lower() not in (b"", b"identity"):
        raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")


async def raw(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body in pieces. Raises: PayloadTooLarge, UnsupportedMediaType, ClientDisconnect."""
    check_head(request.scope, limit)
    async for chunk in _pieces(request.receive, limit):
        yield chunk


async def _pieces(receive: Receive, limit: int) -> AsyncIterator[bytes]:
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size > limit:
            raise PayloadTooLarge(f"The body is larger than {limit} bytes, which is the most that this route takes.")
        if chunk:
            yield chunk


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a form; `filename` is `None` for a field."""

    name: str
    filename: str | None
    chunks: AsyncIterator[bytes]

    async def text(self) -> str:
        """The value of a field. Raises: Invalid where it is too long, or not UTF-8."""
        data = bytearray()
        async for chunk in self.chunks:
            data += chunk
            if len(data) > MAX_FIELD:
                raise Invalid(f"{self.name}: a field may have {MAX_FIELD} bytes.", param=self.name)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise Invalid(f"{self.name}: it is not UTF-8.", param=self.name) from None
        if "\0" in text:
            raise Invalid(f"{self.name}: it has a NUL character.", param=self.name)
        return text


class Form:
    """A body of `multipart/form-data`, read once, part by part."""

    def __init__(self, request: Request, *, files: int, file_bytes: int) -> None:
        """At most `files` files of `file_bytes` each. Raises: UnsupportedMediaType, PayloadTooLarge, Unparsable."""
        self._files = files
        limit = files * file_bytes + 4 * MAX_FIELD + _OVERHEAD
        check_head(request.scope, limit)
        kind, options = parse_options_header(_header(request.scope, b"content-type").decode("latin-1"))
        if kind != b"multipart/form-data":
            raise UnsupportedMediaType("Send the body as multipart/form-data.")
        boundary = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= 70:
            raise Unparsable("The Content-Type needs a boundary of 1 to 70 characters.")
        self._parser = MultipartParser(boundary, {
            "on_part_begin": self._part_begins,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_ends,
            "on_end": self._end,
        })  # fmt: skip
        self._body = _pieces(request.receive, limit)
        self._events: deque[tuple[str, Any]] = deque()
        self._is_over = False
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""

    async def parts(self) -> AsyncIterator[Part]:
        """The parts; what is not read of one is passed over when the next one is asked for.

        Raises: Unparsable, Invalid, PayloadTooLarge, ClientDisconnect.
        """
        fields = files = 0
        while (event := await self._next()) is not None:
            if event[0] != "begin":
                continue
            name, filename = event[1]
            fields, files = fields + (filename is None), files + (filename is not None)
            if files > self._files:
                raise Invalid(f"files: at most {self._files} files in a request.", param="files")
            if fields > _MAX_FIELDS:
                raise Invalid(f"The form has more than {_MAX_FIELDS} fields.")
            yield Part(name, filename, self._chunks())

    async def _chunks(self) -> AsyncIterator[bytes]:
        while (event := await self._next()) is not None and event[0] == "data":
            yield event[1]

    async def _next(self) -> tuple[str, Any] | None:
        """What the parser says next; `None` after its last word."""
        while not self._events:
            chunk = await anext(self._body, None)
            if chunk is None:
                if not self._is_over:
                    raise Unparsable("The form ends before its last boundary.")
                return None
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise Unparsable(f"The form cannot be read: {error}.") from None
        return self._events.popleft()

    # what the parser says

    def _part_begins(self) -> None:
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        told = self._headers.get(b"content-disposition", b"").decode("latin-1")
        kind, options = parse_options_header(told)
        name = options.get(b"name")
        if kind != b"form-data" or not name or len(name) > _MAX_NAME:
            raise Unparsable("Each part of a form needs a Content-Disposition: form-data with a name.")
        filename = options.get(b"filename")
        if filename is not None and len(filename) > _MAX_NAME:
            raise Unparsable(f"The name of a file may have {_MAX_NAME} bytes.")
        encoding = self._headers.get(b"content-transfer-encoding", b"").lower()
        if encoding not in (b"", b"binary", b"8bit", b"7bit"):
            raise Unparsable("Send each part of a form as it is, without a Content-Transfer-Encoding.")
        told_name = name.decode(errors="replace")
        self._events.append(("begin", (told_name, None if filename is None else filename.decode(errors="replace"))))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(("data", data[start:end]))

    def _part_ends(self) -> None:
        self._events.append(("end", None))

    def _end(self) -> None:
        self._is_over = True
