"""Values: what code returns or hands to a host function, made JSON without letting its size or shape hurt anyone.

It runs where the code ran, before anything crosses over to the server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

_MAX_DEPTH = 100
_MAX_BITS = 10_000  # of an integer; what is larger, many readers of JSON refuse


class TooLarge(Exception):
    """The value has more than the bytes that it may have."""


class TooDeep(Exception):
    """The value is nested too deeply, or contains itself."""


def plain(value: object, size: int, text: Callable[[object], str] = str) -> object:
    """A JSON value of at most about `size` bytes; of what JSON lacks, its `text`.

    Raises TooLarge, or TooDeep.
    """
    return _Copy(size, text).of(value, 0)


class _Copy:
    """Counts while it goes, as a list in a list in a list takes no room until it is written out."""

    def __init__(self, size: int, text: Callable[[object], str]) -> None:
        self._left = size
        self._text_of = text

    def of(self, value: object, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise TooDeep(f"The value is nested deeper than {_MAX_DEPTH} levels.")
        self._spend(2)  # itself and what parts it from the next
        match value:
            case None | bool():
                return value
            case str():
                return self._text(value)
            case int():
                self._spend(value.bit_length() // 4)
                return int(value) if value.bit_length() <= _MAX_BITS else self._text(hex(value))
            case float():
                self._spend(16)
                return float(value) if math.isfinite(value) else str(float(value))
            case list() | tuple():
                return [self.of(item, depth + 1) for item in value]
            case dict():
                return self._object(value, depth)
            case _:
                return self._text(self._text_of(value))

    def _object(self, value: Mapping[object, object], depth: int) -> dict[str, object]:
        return {self._key(key): self.of(item, depth + 1) for key, item in value.items()}

    def _key(self, key: object) -> str:
        match key:
            case None | bool():
                return {None: "null", True: "true", False: "false"}[key]
            case str():
                return self._text(key)
            case int() if key.bit_length() > _MAX_BITS:
                return self._text(hex(key))
            case _:
                return self._text(self._text_of(key))

    def _text(self, text: str) -> str:
        self._spend(len(text))
        return text.encode("utf-8", "replace").decode()

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TooLarge
