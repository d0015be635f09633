"""Chat logs: a row for each run that has ended, whatever became of it. What was said is in the run, not here."""

from __future__ import annotations

from dataclasses import dataclass

from innkeeper.core.identity import Owner
from innkeeper.core.runs import RunError
from innkeeper.core.times import Instant
from innkeeper.core.usage import Usage


@dataclass(frozen=True, slots=True)
class ChatLog:
    """One interaction. `created_at` is when its request came; `response_time` counts microseconds from there.

    `input` and `output` are what was said, where they were asked for and the run is still there.
    """

    id: str
    owner: Owner
    user_id: str
    run_id: str
    session_id: str
    agent_name: str
    endpoint: str
    status: str
    error: RunError | None
    usage: Usage | None
    response_time: int
    created_at: Instant
    input: str | None = None
    output: str | None = None


@dataclass(frozen=True, slots=True)
class ChatLogFilter:
    """Which rows are wanted; `None` leaves a criterion out. `since` is included, `until` is not."""

    session_id: str | None = None
    user_id: str | None = None
    agent_name: str | None = None
    endpoint: str | None = None
    status: str | None = None
    since: Instant | None = None
    until: Instant | None = None


@dataclass(frozen=True, slots=True)
class ChatStatistics:
    """Sums over chat logs; times in microseconds, `None` where there is no row.

    `organization` and `user_id` are whose they are, where they are one user's.
    """

    interactions: int = 0
    succeeded: int = 0
    sessions: int = 0
    users: int = 0
    mean_time: float | None = None
    least_time: int | None = None
    most_time: int | None = None
    tokens: int = 0
    organization: str | None = None
    user_id: str | None = None
    last_at: Instant | None = None

    @property
    def failed(self) -> int:
        return self.interactions - self.succeeded
