"""Session events: what happens in a session, in the control plane's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from innkeeper_client import requests
from innkeeper_client.requests import Request, given, segment


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """An event of a session's log, whose `sequence` has no gaps. `source` is `server`, `client` or `handler`."""

    event_id: str
    sequence: int
    event_type: str
    data: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    session_id: str = ""
    run_id: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SessionEventList:
    """Oldest first; `total` counts those of other pages as well."""

    events: list[SessionEvent]
    total: int = 0


def list_events(
    session_id: str, event_type: str | None = None, *, after: int = 0, limit: int = 50, offset: int = 0
) -> Request[SessionEventList]:
    """A page of a session's events, beyond the `sequence` `after`."""
    return requests.get(
        _path(session_id),
        SessionEventList,
        event_type=event_type,
        after=after or None,
        limit=limit,
        offset=offset or None,
    )


def publish_event(
    session_id: str,
    event_type: str,
    data: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Request[SessionEvent]:
    """Add an event to a session's log."""
    body = given(event_type=event_type, data=dict(data or {}), metadata=dict(metadata or {}))
    return requests.post(_path(session_id), SessionEvent, body)


def _path(session_id: str) -> str:
    return f"/api/sessions/{segment(session_id, 'session_id')}/events"
