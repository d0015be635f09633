"""Downloads: contents of files as attachments, whole or in part, streamed, and never as a page of this server's.

A request for several parts is answered with the whole, as one for none is: no client's choice makes an answer longer
than the file, and no list of ranges is worked through.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from innkeeper.core.errors import Invalid, PreconditionFailed, RangeNotSatisfiable

Read = Callable[[int, int | None], AsyncIterator[bytes]]
"""Pieces from a byte on, so many at most."""

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, slots=True)
class Content:
    """What is to be sent; `digest` is the SHA-256 of the whole."""

    name: str
    media_type: str
    size: int
    digest: str
    read: Read

    @property
    def etag(self) -> str:
        return f'"{self.digest}"'


def etag_matches(header: str, etag: str) -> bool:
    """Whether a list of tags, or `*`, holds this one; for reading, a weak one counts as well."""
    tags = (tag.strip().removeprefix("W/") for tag in header.split(","))
    return any(tag in ("*", etag) for tag in tags)


def digest_of(header: str | None) -> str | None:
    """The digest in an `If-Match` of one tag, or `*`; what names nothing of ours matches nothing. Raises: Invalid."""
    if header is not None and "," in header:
        raise Invalid("If-Match: give one tag, or *.", param="If-Match")
    return None if header is None else header.strip().removeprefix("W/").strip('"') or "-"


def download(request: Request, content: Content) -> Response:
    """The answer to a GET or HEAD.

    Raises: PreconditionFailed, so that no two files are put together from parts; RangeNotSatisfiable.
    """
    headers = _headers(content)
    expected = request.headers.get("if-match")
    if expected is not None and not etag_matches(expected, content.etag):
        raise PreconditionFailed("The file is not what it was. Read it again.", param="If-Match")
    wanted = request.headers.get("if-none-match")
    if wanted is not None and etag_matches(wanted, content.etag):
        return Response(status_code=304, headers=headers)
    part = _part(request, content)
    first, last = part or (0, content.size - 1)
    if part is not None:
        headers["content-range"] = f"bytes {first}-{last}/{content.size}"
    headers["content-length"] = str(last - first + 1)
    headers["content-type"] = content.media_type
    status = 200 if part is None else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return _Streamed(content.read, first, last - first + 1, status, headers)


def _headers(content: Content) -> dict[str, str]:
    plain = re.sub(r'[^ -~]|["\\%]', "_", content.name)
    return {
        "etag": content.etag,
        "accept-ranges": "bytes",
        "content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(content.name, safe='')}",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
        "cache-control": "private, no-cache",
    }


def _part(request: Request, content: Content) -> tuple[int, int] | None:
    """The first and last byte of the one part that is asked for; `None` for the whole.

    Raises: RangeNotSatisfiable.
    """
    told = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if told is None or request.method != "GET" or told[0] == "bytes=-":
        return None
    condition = request.headers.get("if-range")
    if condition is not None and condition.strip() != content.etag:
        return None
    size = content.size
    if not told[1]:
        first, last = max(0, size - int(told[2])), size - 1
    else:
        first, last = int(told[1]), min(int(told[2]) if told[2] else size - 1, size - 1)
        if told[2] and int(told[2]) < first:
            return None
    if first >= size:
        raise RangeNotSatisfiable("The file ends before the part that was asked for.", details={"size": size})
    return first, last


class _Streamed(Response):
    """Sends pieces as they are read; the head only once the first one has been."""

    def __init__(self, read: Read, first: int, size: int, status: int, headers: Mapping[str, str]) -> None:
        self.status_code = status
        self.background = None
        self._pieces = read(first, size) if size else None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pieces = self._pieces
        piece = None if pieces is None else await anext(pieces, None)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            while piece is not None and pieces is not None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await anext(pieces, None)
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
