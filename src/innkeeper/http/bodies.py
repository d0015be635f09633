"""Bodies: read within a bound, parsed strictly, checked against a model; each failure is the right error."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from innkeeper.core.errors import PayloadTooLarge, Unparsable, UnsupportedMediaType
from innkeeper.http.problems import invalid

ModelT = TypeVar("ModelT", bound=BaseModel)

_MAX_DEPTH = 64


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises: UnsupportedMediaType unless it is JSON, and not compressed; PayloadTooLarge; ClientDisconnect.
    """
    content_type = length = b""
    is_encoded = False
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"content-length":
            length = value
        elif name == b"content-encoding" and value.lower() != b"identity":
            is_encoded = True
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    if is_encoded:
        raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")
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
    """Strict JSON: finite numbers, valid Unicode, no name twice in an object, at most 64 levels.

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
    if _count_names(value, _MAX_DEPTH) != body.count(b":"):  # else every colon is behind a name of its own
        _refuse_repeated_names(body)
    return value


def _count_names(value: Any, levels: int) -> int:
    """How many names the objects in `value` have in all. Raises: Unparsable if it is deeper than `levels`."""
    kind = type(value)
    if kind is dict:
        names, children = len(value), value.values()
    elif kind is list:
        names, children = 0, value
    else:
        return 0
    if not levels:
        raise Unparsable(f"The body is nested more than {_MAX_DEPTH} levels deep.")
    for child in children:
        kind = type(child)
        if kind is dict or kind is list:
            names += _count_names(child, levels - 1)
    return names


def _refuse_repeated_names(body: bytes) -> None:
    json.loads(body, object_pairs_hook=_checked_names, parse_int=_unread, parse_float=_unread)


def _unread(number: str) -> None:
    return None


def _checked_names(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise Unparsable("An object of the body has the same name twice.")
        seen.add(name)


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body which has been read already, then whatever comes after it."""
    is_given = False

    async def receive_again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def check(model: type[ModelT], value: Any) -> ModelT:
    """The value as the model has it.

    Raises: Invalid, naming the field.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from None
