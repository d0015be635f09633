"""Media types: what a file is, judged by its name and its first bytes. What a client says of it is not asked.

A name that promises a picture or a text is believed only as far as the bytes bear it out.
"""

from __future__ import annotations

import mimetypes
import re

UNKNOWN = "application/octet-stream"
HEAD_BYTES = 512
"""How many of the first bytes are looked at."""

IMAGES = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp"))
"""Pictures that models are handed."""

_BY_NAME = mimetypes.MimeTypes()  # Python's own table; what a machine says beside it would differ from the next one's
_TEXTS = {
    ".md": "text/markdown", ".csv": "text/csv", ".json": "application/json", ".jsonl": "application/jsonl",
    ".yaml": "application/yaml", ".yml": "application/yaml", ".toml": "application/toml", ".webp": "image/webp",
    ".log": "text/plain",
}  # fmt: skip
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_OF_TEXT = frozenset(
    ("application/json", "application/jsonl", "application/yaml", "application/toml", "application/xml",
     "application/javascript", "image/svg+xml")
)  # fmt: skip
_WELL_FORMED = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}/[a-z0-9][a-z0-9.+-]{0,63}")


def guess(name: str, head: bytes) -> str:
    """The media type of a file of this name that begins with `head`."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    promised = _promised(name)
    if promised in IMAGES or promised == "application/pdf":
        return UNKNOWN
    if is_text(promised):
        return promised if _reads_as_text(head) else UNKNOWN
    if promised == UNKNOWN and head and _reads_as_text(head):
        return "text/plain"
    return promised


def is_text(media_type: str) -> bool:
    return media_type.startswith("text/") or media_type in _OF_TEXT


def is_well_formed(media_type: str) -> bool:
    return _WELL_FORMED.fullmatch(media_type) is not None


def _promised(name: str) -> str:
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    return _TEXTS.get(suffix) or _BY_NAME.types_map[True].get(suffix) or UNKNOWN


def _reads_as_text(head: bytes) -> bool:
    """Whether the bytes are UTF-8, as far as they go, without what no text has."""
    if b"\0" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and error.reason == "unexpected end of data"
    return True
