"""Decoding: JSON as the dataclasses of this package. Unknown fields are passed over, as servers learn new ones."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime
from enum import Enum
from functools import cache, partial
from typing import Any, TypeVar, cast

from innkeeper_client.exceptions import invalid_answer

T = TypeVar("T")

Read = Callable[[Any], Any]


def decode(kind: type[T], raw: Any) -> T:
    """`raw` as a `kind`. Raises: ChatServerError that names the field which is missing or of another type."""
    if not isinstance(raw, Mapping):
        raise invalid_answer(f"The server's answer is no {kind.__name__}: an object is expected.", raw)
    values: dict[str, Any] = {}
    for name, read, has_default, may_be_none in _fields(cast("Hashable", kind)):
        if name in raw:
            try:
                values[name] = read(raw[name])
            except (TypeError, ValueError, OverflowError):
                raise invalid_answer(f"{kind.__name__}.{name} is of another type than expected.", dict(raw)) from None
        elif may_be_none and not has_default:
            values[name] = None
        elif not has_default:
            raise invalid_answer(f"{kind.__name__}.{name} is missing in the server's answer.", dict(raw))
    return kind(**values)


def reader(kind: type[T]) -> Callable[[Any], T]:
    """`decode` for one kind."""
    return partial(decode, kind)


@cache
def _fields(kind: type[Any]) -> tuple[tuple[str, Read, bool, bool], ...]:
    hints = typing.get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        may_be_none = type(None) in typing.get_args(hints[field.name])
        if field.init:
            found.append((field.name, _read_of(hints[field.name]), has_default, may_be_none))
    return tuple(found)


def _read_of(hint: Any) -> Read:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        kinds = [one for one in arguments if one is not type(None)]
        inner = _read_of(kinds[0]) if len(kinds) == 1 else _as_it_is
        return lambda raw: None if raw is None else inner(raw)
    if origin is list:
        item = _read_of(arguments[0])
        return lambda raw: [item(one) for one in _checked(raw, list)]
    if origin is dict or hint is dict:
        return partial(_checked, kind=dict)
    if isinstance(hint, type):
        return _read_of_class(hint)
    return _as_it_is


def _read_of_class(hint: type[Any]) -> Read:
    if dataclasses.is_dataclass(hint):
        return _nested(hint)
    if issubclass(hint, Enum):
        return hint
    if hint is datetime:
        return datetime.fromisoformat
    if hint is float:
        return lambda raw: float(_checked(raw, (int, float)))
    return partial(_checked, kind=hint) if hint in (str, int, bool) else _as_it_is


def _nested(kind: type[Any]) -> Read:
    return lambda raw: decode(kind, raw)


def _as_it_is(raw: Any) -> Any:
    return raw


def _checked(raw: Any, kind: Any) -> Any:
    if not isinstance(raw, kind):
        raise TypeError(f"{raw!r} is not of {kind}")
    return raw
