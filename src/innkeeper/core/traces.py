"""Traces: what was done for one request, as a tree of spans. Names of traces and spans are W3C's, in hexadecimal.

Nothing here is stored: a span's id is made of the id of what it tells, so that whoever derives a trace from the
store gets the same one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from innkeeper.core.times import Instant

SpanKind = Literal["run", "queue", "agent", "model", "tool", "injection", "command", "handler", "store"]
SpanStatus = Literal["running", "ok", "error", "cancelled", "interrupted"]

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


@dataclass(frozen=True, slots=True)
class SpanPlace:
    """A span of a trace, as others name it who have begun something within it."""

    trace_id: str
    span_id: str

    def __str__(self) -> str:
        """As the header `traceparent` says it."""
        return f"00-{self.trace_id}-{self.span_id}-01"


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a trace. `ended_at` is `None` while it goes on; `attributes` are values that JSON can say."""

    span_id: str
    parent_id: str | None
    name: str
    kind: SpanKind
    started_at: Instant
    ended_at: Instant | None
    status: SpanStatus
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of a trace in order of time; `is_truncated` says that there are more than are told."""

    trace_id: str
    spans: tuple[Span, ...]
    is_truncated: bool = False


def place_of(header: str) -> SpanPlace | None:
    """What a `traceparent` names; `None` for one that is not valid, which W3C has everybody ignore."""
    read = _HEADER.fullmatch(header)
    if read is None:
        return None
    version, trace_id, span_id, rest = read.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return SpanPlace(trace_id, span_id)


def is_trace_id(text: str) -> bool:
    return _TRACE_ID.fullmatch(text) is not None


def span_id_of(subject: str) -> str:
    """The span of a run or a command, by its id: the end of it, which is random."""
    end = subject[-16:]
    if _SPAN_ID.fullmatch(end) is not None and end != _NO_SPAN:
        return end
    return inner_span_id(subject, "")


def inner_span_id(subject: str, part: str) -> str:
    """The span of a part of a run or a command."""
    return blake2b(f"{subject}/{part}".encode(), digest_size=8).hexdigest()
