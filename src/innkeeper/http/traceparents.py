"""Trace parents: the header `traceparent` of W3C, as it is read from requests and put into answers."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from innkeeper.core.traces import SpanPlace, place_of
from innkeeper.http.deps import house_of

HEADER = "traceparent"
_RAW = HEADER.encode()


def parent_of(connection: HTTPConnection) -> SpanPlace | None:
    """The span that the client works in. None where it told none, or no valid one, or where nothing is traced."""
    told = [value for name, value in connection.scope["headers"] if name == _RAW]
    if len(told) != 1 or not house_of(connection).is_tracing:
        return None
    return place_of(told[0].decode("latin-1").strip())


def trace_headers(connection: HTTPConnection, place: SpanPlace) -> dict[str, str]:
    """What tells the client which trace it was, and which span of it."""
    return {HEADER: str(place)} if house_of(connection).is_tracing else {}
