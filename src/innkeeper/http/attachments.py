"""Attachments: pictures, sound and files inside messages, checked before anything runs.

They come as base64 or as links of the web. Links are handed on to the agent; nothing is fetched here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from innkeeper.core.errors import Invalid


def check_attachment(part: Mapping[str, Any], field: str, where: str) -> None:
    """See that the agent will be able to read the content part; `field` is the part's own, `where` its path.

    Raises: Invalid, naming the field.
    """
    at, value = f"{where}.{field}", part[field]
    if field == "image_url":
        _check_link(value.get("url") if isinstance(value, Mapping) else value, at)
    elif field == "input_audio":
        if not isinstance(value, Mapping) or not isinstance(value.get("format"), str):
            raise _wrong(at, "give data and format")
        _check_base64(value.get("data"), at)
    elif field == "file":
        if not isinstance(value, Mapping):
            raise _wrong(at, "give filename and file_data")
        check_file(value, at)


def check_file(file: Mapping[str, Any], at: str) -> None:
    """See that a file's data or link can be read. Raises: Invalid."""
    data, url = file.get("file_data"), file.get("file_url")
    if url is not None:
        _check_link(url, at)
    if isinstance(data, str) and data.startswith("data:"):
        _check_link(data, at)
    elif data is not None:
        _check_base64(data, at)


def _check_link(url: object, at: str) -> None:
    if not isinstance(url, str):
        raise _wrong(at, "give a url")
    if url.startswith(("http://", "https://")):
        return
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise _wrong(at, "use a data: URL with base64, or a link with https:")
    _check_base64(data, at)


def _check_base64(data: object, at: str) -> None:
    try:
        if not isinstance(data, str) or not data:
            raise ValueError
        base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error):
        raise _wrong(at, "the data is not base64") from None


def _wrong(at: str, why: str) -> Invalid:
    return Invalid(f"{at}: {why}", param=at)
