"""Logs: a row for each run that has ended with sums of them, and what the server and its clients say of their work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from innkeeper_client import requests
from innkeeper_client.requests import Request, given, segment


@dataclass(frozen=True, slots=True)
class ChatLog:
    """A run that has ended. What was said is there where `contents` were asked for."""

    id: str
    timestamp: datetime
    agent_name: str
    session_id: str
    user_id: str
    endpoint: str
    status: str
    run_id: str
    response_time_ms: float
    input_message: str | None = None
    output_response: str | None = None
    model_info: dict[str, Any] | None = None
    token_usage: dict[str, int] | None = None
    total_tokens: int | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class ChatLogList:
    """Newest first; `total` is how many there are in all."""

    logs: list[ChatLog]
    total: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Sums over runs that have ended. `user_id` is there where they are those of one user."""

    total_interactions: int
    successful_interactions: int
    failed_interactions: int
    unique_sessions: int
    unique_users: int
    avg_response_time_ms: float | None
    min_response_time_ms: float | None
    max_response_time_ms: float | None
    total_tokens_sum: int
    user_id: str | None = None
    organization: str | None = None
    last_interaction: datetime | None = None


@dataclass(frozen=True, slots=True)
class AgentStatistics:
    """`agent_name` is the agent that was asked about, `None` for all of them."""

    agent_name: str | None
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class UserStatistics:
    """The busiest first."""

    user_statistics: list[Statistics]


@dataclass(frozen=True, slots=True)
class LogRecord:
    """What was said of some work. `source` is the server, an agent or a client."""

    id: str
    created_at: datetime
    level: str
    source: str
    logger: str
    message: str
    session_id: str | None = None
    request_id: str | None = None
    user_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogRecordList:
    """Newest first. Where there may be more, `next` is the `after` that leads on."""

    logs: list[LogRecord]
    has_more: bool
    next: str | None = None


def list_chat_logs(
    limit: int = 100,
    offset: int = 0,
    *,
    session_id: str | None = None,
    user_id: str | None = None,
    agent_name: str | None = None,
    endpoint: str | None = None,
    status: str | None = None,
    start_date: str | None = None,
    end_date: str | None = None,
    contents: bool = False,
) -> Request[ChatLogList]:
    """Runs that have ended, newest first. Dates are such as `2026-01-31`, or moments in ISO 8601."""
    return requests.get(
        "/logs",
        ChatLogList,
        limit=limit,
        offset=offset,
        session_id=session_id,
        user_id=user_id,
        agent_name=agent_name,
        endpoint=endpoint,
        status=status,
        start_date=start_date,
        end_date=end_date,
        contents=contents or None,
    )


def list_session_chat_logs(
    session_id: str, limit: int = 100, offset: int = 0, *, contents: bool = False
) -> Request[ChatLogList]:
    """Runs of a session that have ended, newest first."""
    path = f"/logs/sessions/{segment(session_id, 'session_id')}"
    return requests.get(path, ChatLogList, limit=limit, offset=offset, contents=contents or None)


def get_statistics(
    *,
    session_id: str | None = None,
    user_id: str | None = None,
    agent_name: str | None = None,
    start_date: str | None = None,
    end_date: str | None = None,
) -> Request[AgentStatistics]:
    """How many runs there were, how they ended, how long they took, and what they consumed."""
    return requests.get(
        "/logs/stats",
        AgentStatistics,
        session_id=session_id,
        user_id=user_id,
        agent_name=agent_name,
        start_date=start_date,
        end_date=end_date,
    )


def list_user_statistics(
    limit: int = 100, *, agent_name: str | None = None, start_date: str | None = None, end_date: str | None = None
) -> Request[UserStatistics]:
    """The same for each user, the busiest first."""
    return requests.get(
        "/logs/stats/users",
        UserStatistics,
        limit=limit,
        agent_name=agent_name,
        start_date=start_date,
        end_date=end_date,
    )


def list_records(
    limit: int = 100,
    after: str | None = None,
    *,
    level: str | None = None,
    session_id: str | None = None,
    since: str | None = None,
    until: str | None = None,
    text: str | None = None,
) -> Request[LogRecordList]:
    """What the server, agents and clients have logged, of this `level` or above, newest first."""
    return requests.get(
        "/api/observability/logs",
        LogRecordList,
        limit=limit,
        after=after,
        level=level,
        session_id=session_id,
        since=since,
        until=until,
        q=text,
    )


def add_record(
    level: str, message: str, *, metadata: Mapping[str, Any] | None = None, session_id: str | None = None
) -> Request[LogRecord]:
    """Keep a record of your own."""
    body = given(level=level, message=message, metadata=dict(metadata or {}), session_id=session_id)
    return requests.post("/api/observability/logs", LogRecord, body)
