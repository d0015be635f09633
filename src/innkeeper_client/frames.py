"""Frames: server-sent events out of bytes that arrive in any pieces. A frame that was cut off is none."""

from __future__ import annotations

from typing import NamedTuple

from innkeeper_client.exceptions import invalid_answer

MAX_FRAME = 256 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class Frame(NamedTuple):
    id: str | None
    data: str


class Frames:
    """Of one connection. Lines end with LF or CRLF."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._held = 0
        self._is_first = True
        self._id: str | None = None
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with this.

        Raises: ChatServerError for one without an end.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest = []
        self._rest.append(rest)
        frames = [frame for line in lines if (frame := self._line(line.removesuffix(b"\r"))) is not None]
        self._held += len(data)
        if lines and not self._data:
            self._held = len(rest)
        if self._held > MAX_FRAME:
            raise invalid_answer(f"The server sent an event of more than {MAX_FRAME} bytes.")
        return frames

    def _line(self, line: bytes) -> Frame | None:
        if self._is_first:
            self._is_first, line = False, line.removeprefix(_BOM)
        if not line:
            return self._end()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"id":
            self._id = value.decode(errors="replace")
        return None

    def _end(self) -> Frame | None:
        data, self._data = self._data, []
        told, self._id = self._id, None
        said = b"\n".join(data)
        return Frame(told, said.decode(errors="replace")) if said else None
