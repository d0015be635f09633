"""JSON for every client, of values that code of others made: encoding never fails, and reading takes what it can.

What JSON cannot say is said as near as it can be, rather than refused, because an event must get into its log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from json.encoder import encode_basestring  # the C scanner: escapes what JSON demands and nothing else
from math import isfinite


def json_string(text: str) -> bytes:
    """`text` as a JSON string literal in UTF-8; lone surrogates are escaped, so it never fails."""
    try:
        return encode_basestring(text).encode()
    except UnicodeEncodeError:
        return json.dumps(text).encode()


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str).encode
_encode_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=str).encode


def json_bytes(value: object) -> bytes:
    """Any value as JSON that every client can read; it never fails, because tools return what they like.

    Numbers that are not finite become null, keys become text, anything unknown becomes its text; what
    lies inside of itself, or too deep, or has no text, is cut off with an ellipsis.
    """
    try:
        text = _encode(value)
        return text.encode() if not _may_be_deep(text) else _encode_ascii(_plain(value, ())).encode()
    except UnicodeEncodeError:
        return _encode_ascii(value).encode()
    except Exception:  # noqa: BLE001 - texts of unknown values are made by code of others
        return _encode_ascii(_plain(value, ())).encode()


_MAX_DEPTH = 64
_MAX_BITS = 14_000
"""Python refuses to write longer numbers, and to read them."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _may_be_deep(text: str) -> bool:
    """Whether JSON may be nested deeper than others read it; brackets in its strings may make it seem so."""
    if text.count("[") + text.count("{") <= _MAX_DEPTH:
        return False
    left = text.encode(errors="replace").translate(None, _NO_BRACKETS)
    for _ in range(_MAX_DEPTH):
        left = left.replace(b"[]", b"").replace(b"{}", b"")
    return bool(left)


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [one for outer in level for one in _items(outer) if isinstance(one, dict | list)]
    return bool(level)


def _items(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _wording(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - it is code of others
        return "…"


def _plain(value: object, around: tuple[int, ...]) -> object:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= _MAX_BITS else "…"
    if not isinstance(value, dict | list | tuple):
        return _wording(value)
    if id(value) in around or len(around) >= _MAX_DEPTH:
        return "…"
    inside = (*around, id(value))
    if isinstance(value, dict):
        return {_wording(key): _plain(item, inside) for key, item in value.items()}
    return [_plain(item, inside) for item in value]


def json_value(text: str) -> object:
    """What JSON text says; text that says nothing that JSON could, or what is too deep for others to write, as it is.

    Lone surrogates become U+FFFD.
    """
    try:
        told: object = json.loads(text, parse_constant=_refused) if text else {}
        if _may_be_deep(text) and _is_deep(told):
            return scrubbed(text)
        if "\\u" not in text and text.isascii():
            return told
        return json.loads(scrubbed(json.dumps(told, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return scrubbed(text)


def _refused(name: str) -> object:
    raise ValueError(f"JSON has no {name}")


def scrubbed(text: str) -> str:
    """Text that UTF-8 can carry: lone surrogates become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
