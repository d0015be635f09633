"""Requests: what to ask of the server and how to read its answer, without anything of how it is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from innkeeper_client.decoding import reader
from innkeeper_client.effects import Sleep

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One request of the API. The answer may take `patience` seconds more than others, as it was asked to wait."""

    method: str
    path: str
    read: Callable[[Any], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    patience: float = 0.0

    @property
    def target(self) -> str:
        """Path and query; what is `None` is left out."""
        query = urlencode({name: _text(value) for name, value in self.params.items() if value is not None})
        return f"{self.path}?{query}" if query else self.path

    @property
    def content(self) -> bytes | None:
        return None if self.body is None else json.dumps(self.body, separators=(",", ":"), allow_nan=False).encode()

    @property
    def makes_something(self) -> bool:
        """Whether it must not be carried out twice."""
        return self.method == "POST"


Work = Generator[Request[Any] | Sleep, Any, T]
"""Several requests, one after the other, that come to a `T`."""


def get(path: str, kind: type[T], *, patience: float = 0.0, **params: Any) -> Request[T]:
    return Request("GET", path, reader(kind), params, patience=patience)


def post(path: str, kind: type[T], body: Any = None, *, patience: float = 0.0, **params: Any) -> Request[T]:
    return Request("POST", path, reader(kind), params, {} if body is None else body, patience)


def delete(path: str, **params: Any) -> Request[None]:
    """The reader is given `None` where an earlier attempt has removed it already."""
    return Request("DELETE", path, _nothing, params)


def _nothing(_: Any) -> None:
    """The reader of answers without a body."""


def segment(value: str, name: str) -> str:
    """`value` as one segment of a path.

    Raises: ValueError where it would lead elsewhere.
    """
    if not value or value in (".", ".."):
        raise ValueError(f"{name}: {value!r} names nothing")
    return quote(value, safe="")


def given(**fields: Any) -> dict[str, Any]:
    """A body of the fields that are not `None`."""
    return {name: value for name, value in fields.items() if value is not None}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
