"""Paths: what a file of a workspace may be called. Relative, of plain names, the same on every system.

A path is written with `/` and in Unicode's form NFC. What could mean something else on another system, or lead out of a
folder, is refused and not repaired; a name that a client gives an attachment is made safe instead.
Invariant: a path that `checked` has returned is returned by it again.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from innkeeper.core.errors import Invalid

MAX_CHARACTERS = 512
MAX_SEGMENT_BYTES = 255
_MOST_DECOMPOSED = 4 * MAX_CHARACTERS
"""What no character is in more of, in Unicode's form NFD."""

_FOREIGN = frozenset('\\<>:"|?*')
_DEVICES = frozenset(("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$")) | {
    f"{device}{number}" for device in ("COM", "LPT") for number in "0123456789¹²³"
}
_UNSEEN = frozenset(("Cc", "Cs", "Zl", "Zp"))
_UNREADABLE = "\ufffd"
"""What stands for bytes that are no UTF-8: names that differ in these alone would be one."""
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Characters that change the direction of a text or are not seen: a name would look like another one."""


def checked(path: str) -> str:
    """The path as it is stored.

    Raises: Invalid, with the reason.
    """
    if len(path) > _MOST_DECOMPOSED:  # how long normalising takes grows with the square of the length
        raise _refused(f"has more than {MAX_CHARACTERS} characters")
    path = unicodedata.normalize("NFC", path)
    if not path:
        raise _refused("is empty")
    if len(path) > MAX_CHARACTERS:
        raise _refused(f"has more than {MAX_CHARACTERS} characters")
    if path.startswith("/"):
        raise _refused("is absolute; it begins where the workspace does")
    for segment in path.split("/"):
        _check_segment(segment)
    return path


def _check_segment(segment: str) -> None:
    if not segment:
        raise _refused("has an empty part between slashes, or ends with one")
    if segment in (".", ".."):
        raise _refused("may not contain . or .. as a part")
    if _UNREADABLE in segment:
        raise _refused("is not UTF-8, or has the character that stands for what is not")
    if any(map(_is_refused, segment)):
        raise _refused(r'may not contain control characters or any of \ < > : " | ? *')
    if segment[-1] in ". ":
        raise _refused("has a part that ends with a dot or a space, which some systems drop")
    if _is_device(segment):
        raise _refused("has a part that names a device on Windows")
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        raise _refused(f"has a part of more than {MAX_SEGMENT_BYTES} bytes")


def _is_refused(character: str) -> bool:
    if character in _FOREIGN or character in _TURNS or character == _UNREADABLE:
        return True
    return unicodedata.category(character) in _UNSEEN


def _is_device(segment: str) -> bool:
    return segment.partition(".")[0].rstrip(" ").upper() in _DEVICES


def _refused(why: str) -> Invalid:
    return Invalid(f"path: {why}.", param="path")


def safe_name(name: str, taken: Collection[str] = ()) -> str:
    """What a file is called that a client calls `name`: one segment that `checked` takes, and none of `taken`."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2][-_MOST_DECOMPOSED:])
    name = "".join("_" if _is_refused(character) else character for character in name)
    name = name.strip().rstrip(". ")
    if not name:
        name = "file"
    if _is_device(name):
        name = f"_{name}"
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix) > 16:
        stem, dot, suffix = name, "", ""
    tail, number = f"{dot}{suffix}", 1
    candidate = _cut(stem, tail)
    while candidate in taken:
        number += 1
        candidate = _cut(stem, f"-{number}{tail}")
    return candidate


def _cut(stem: str, tail: str) -> str:
    room = MAX_SEGMENT_BYTES - len(tail.encode())
    return unicodedata.normalize("NFC", stem.encode()[:room].decode(errors="ignore") + tail)
