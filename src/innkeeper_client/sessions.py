"""Sessions: conversations that are made, listed, read, changed and removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from innkeeper_client import requests
from innkeeper_client.decoding import reader
from innkeeper_client.messages import MessageLike, as_dicts
from innkeeper_client.requests import Request, given, segment


class Unchanged(Enum):
    """What an argument is that was left out, where `None` says something."""

    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class SessionMessage:
    """A message of a session; `run_id` is the run that brought it."""

    role: str
    content: str | list[dict[str, Any]] | None
    position: int
    run_id: str | None = None
    created_at: datetime | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A session; `messages` are there where it was asked for by its id."""

    id: str
    agent_name: str | None
    user_id: str
    title: str | None
    metadata: dict[str, Any]
    archived: bool
    message_count: int
    created_at: datetime
    updated_at: datetime
    last_message_at: datetime | None = None
    messages: list[SessionMessage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SessionList:
    """Newest first. Where there are more, `next` is the `after` that leads on."""

    sessions: list[Session]
    has_more: bool
    next: str | None = None


@dataclass(frozen=True, slots=True)
class SessionMessageList:
    """Oldest first."""

    messages: list[SessionMessage]
    has_more: bool = False


def create_session(
    id: str | None = None,
    *,
    agent_name: str | None = None,
    title: str | None = None,
    user_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Request[Session]:
    """Make a session; a new id is made if none is given."""
    body = given(id=id, agent_name=agent_name, title=title, user_id=user_id, metadata=dict(metadata or {}))
    return requests.post("/sessions", Session, body)


def list_sessions(
    limit: int = 50,
    after: str | None = None,
    *,
    user_id: str | None = None,
    agent_name: str | None = None,
    archived: bool | None = None,
) -> Request[SessionList]:
    """Your sessions, newest first."""
    return requests.get(
        "/sessions", SessionList, limit=limit, after=after, user_id=user_id, agent_name=agent_name, archived=archived
    )


def get_session(session_id: str, *, limit: int | None = None, user_id: str | None = None) -> Request[Session]:
    """A session with all of its messages, or with the last `limit`."""
    return requests.get(_path(session_id), Session, limit=limit, user_id=user_id)


def update_session(
    session_id: str,
    *,
    title: str | Unchanged | None = Unchanged.UNCHANGED,
    metadata: Mapping[str, Any] | None = None,
    archived: bool | None = None,
    user_id: str | None = None,
) -> Request[Session]:
    """Change what is given; `title=None` removes the title."""
    body = given(metadata=None if metadata is None else dict(metadata), archived=archived)
    if not isinstance(title, Unchanged):
        body["title"] = title
    return Request("PATCH", _path(session_id), reader(Session), {"user_id": user_id}, body)


def delete_session(session_id: str, *, user_id: str | None = None) -> Request[None]:
    """Remove a session with everything that was said in it; what still runs in it is cancelled."""
    return requests.delete(_path(session_id), user_id=user_id)


def list_messages(
    session_id: str, *, limit: int = 100, after: int = 0, user_id: str | None = None
) -> Request[SessionMessageList]:
    """A session's conversation beyond the position `after`, oldest first."""
    path = f"{_path(session_id)}/messages"
    return requests.get(path, SessionMessageList, limit=limit, after=after, user_id=user_id)


def append_messages(
    session_id: str, messages: Iterable[MessageLike], *, user_id: str | None = None
) -> Request[SessionMessageList]:
    """Add messages to a session without running anything."""
    path = f"{_path(session_id)}/messages"
    return requests.post(path, SessionMessageList, {"messages": as_dicts(messages)}, user_id=user_id)


def _path(session_id: str) -> str:
    return f"/sessions/{segment(session_id, 'session_id')}"
