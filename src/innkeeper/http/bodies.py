"""Bodies: read within a bound, parsed strictly, checked against a model; each failure is the right error."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from innkeeper.core.errors import PayloadTooLarge, Unparsable, UnsupportedMediaType
from innkeeper.http.problems import invalid

ModelT = TypeVar("ModelT", bound=BaseModel)

_MAX_DEPTH = 64


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises: UnsupportedMediaType unless it is JSON; PayloadTooLarge; ClientDisconnect.
    """
    content_type = length = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            length = value
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        body = await _read_rest(body, receive, limit)
    if len(body) > limit:
        raise _too_large(limit)
    if body and not content_type.partition(b";")[0].strip().lower() == b"application/json":
        raise UnsupportedMediaType("Send the body as application/json.")
    return body


async def _read_rest(first: bytes, receive: Receive, limit: int) -> bytes:
    parts, size, more = [first], len(first), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return b"".join(parts)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes, which is the most that this route takes.")


def parse_json(body: bytes) -> Any:
    """Strict JSON: finite numbers, valid Unicode, at most 64 levels.

    Raises: Unparsable.
    """
    if not body:
        raise Unparsable("The body is empty; send a JSON object.")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unparsable(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise Unparsable(f"The body is nested more than {_MAX_DEPTH} levels deep.") from None
    if body.count(b"[") + body.count(b"{") > _MAX_DEPTH and _depth(value, _MAX_DEPTH) < 0:
        raise Unparsable(f"The body is nested more than {_MAX_DEPTH} levels deep.")
    return value


def _depth(value: Any, left: int) -> int:
    """What is left of a budget of levels after descending into `value`; negative when it is exceeded."""
    if not isinstance(value, dict | list) or left < 0:
        return left
    children = value.values() if isinstance(value, dict) else value
    return min((_depth(child, left - 1) for child in children), default=left - 1)


def check(model: type[ModelT], value: Any) -> ModelT:
    """The value as the model has it.

    Raises: Invalid, naming the field.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from None
