"""History: the sessions of a user of completions, and what was said in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from innkeeper_client import requests
from innkeeper_client.requests import Request, segment


@dataclass(frozen=True, slots=True)
class ChatSessionSummary:
    """A session. `model` is the agent's name, `agent_type` what hosts it."""

    id: str
    user_id: str
    organization_id: str | None
    title: str | None
    model: str | None
    agent_type: str | None
    created_at: datetime
    updated_at: datetime
    last_message_at: datetime | None
    message_count: int
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_total: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    archived: bool = False


@dataclass(frozen=True, slots=True)
class ChatSessionListResponse:
    """A page, newest first; `total` is how many there are in all."""

    sessions: list[ChatSessionSummary]
    total: int
    page: int
    page_size: int
    has_more: bool


@dataclass(frozen=True, slots=True)
class ChatMessageRecord:
    """A message; `message_index` is its place in the conversation, from 0."""

    id: str
    session_id: str
    message_index: int
    role: str
    content: str
    metadata: dict[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ChatSessionDetailResponse:
    """A session with its conversation, oldest first."""

    session: ChatSessionSummary
    messages: list[ChatMessageRecord]


def list_sessions(user_id: str, page: int = 1, page_size: int = 20) -> Request[ChatSessionListResponse]:
    """The sessions of one user, newest first, and how many there are."""
    return requests.get("/v1/chat/sessions", ChatSessionListResponse, user_id=user_id, page=page, page_size=page_size)


def get_session(session_id: str, *, user_id: str) -> Request[ChatSessionDetailResponse]:
    """A session and what was said in it."""
    path = f"/v1/chat/sessions/{segment(session_id, 'session_id')}"
    return requests.get(path, ChatSessionDetailResponse, user_id=user_id)
