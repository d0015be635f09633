"""Chat logs: a row for each run that has ended, and statistics of them.

What the server says of its own work is at `/api/observability/logs`, and is another matter.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from innkeeper.core.chat_logs import ChatLog, ChatLogFilter, ChatStatistics
from innkeeper.core.errors import Forbidden, Invalid, SessionNotFound, StorageUnavailable, Unauthorized
from innkeeper.core.periods import begins_at, ends_before
from innkeeper.core.times import Instant, isoformat
from innkeeper.http.deps import CallerDep, Limit, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.requests import Named, printable
from innkeeper.http.routes import needs, surface

router = surface(prefix="/logs", tags=["Chat logs"])

MAX_OFFSET = 100_000
_PROBLEMS = problems(Unauthorized, Forbidden, Invalid, StorageUnavailable)


Start = Annotated[Instant, BeforeValidator(begins_at, json_schema_input_type=str)]
End = Annotated[Instant, BeforeValidator(ends_before, json_schema_input_type=str)]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET, description="Leaves out the newest of them.")]
Contents = Annotated[bool, Field(description="Whether what was said is shown, of runs that are still stored.")]


class StatisticsQuery(BaseModel):
    """Which rows count."""

    model_config = ConfigDict(extra="ignore")

    session_id: Named | None = None
    user_id: Named | None = None
    agent_name: Named | None = None
    endpoint: Named | None = None
    status: Literal["completed", "failed", "cancelled", "interrupted"] | None = None
    start_date: Start | None = Field(
        default=None, description="Asked for on this day (UTC) or at this time, or later, such as 2026-01-31."
    )
    end_date: End | None = Field(
        default=None, description="Asked for on this day (UTC) or earlier; of a time, before it."
    )

    _checked_names = field_validator("session_id", "user_id", "agent_name", "endpoint")(printable)

    def wanted(self) -> ChatLogFilter:
        return ChatLogFilter(
            session_id=self.session_id,
            user_id=self.user_id,
            agent_name=self.agent_name,
            endpoint=self.endpoint,
            status=self.status,
            since=self.start_date,
            until=self.end_date,
        )


class ChatLogQuery(StatisticsQuery):
    """Which rows, and how many of them."""

    limit: Limit = 100
    offset: Offset = 0
    contents: Contents = False


class UserQuery(StatisticsQuery):
    """Which rows count, and for how many users at most."""

    limit: Limit = 100


class PageQuery(BaseModel):
    """Which rows of a session, and how many; without an end user those of all sessions that are called so."""

    model_config = ConfigDict(extra="ignore")

    user_id: Named | None = None
    limit: Limit = 100
    offset: Offset = 0
    contents: Contents = False

    _checked_names = field_validator("user_id")(printable)


class ChatLogView(BaseModel):
    """A run that has ended; `timestamp` is when it was asked for.

    `input_message` and `output_response` are null unless contents were asked for; what the agent did not report is
    null, too.
    """

    id: str
    timestamp: str
    agent_name: str
    session_id: str
    user_id: str
    endpoint: str
    input_message: str | None
    output_response: str | None
    model_info: dict[str, Any] | None
    token_usage: dict[str, int] | None
    total_tokens: int | None
    response_time_ms: float
    status: str
    error_message: str | None
    run_id: str

    @classmethod
    def of(cls, row: ChatLog) -> Self:
        usage = row.usage
        tokens = None if usage is None else (usage.input_tokens, usage.output_tokens, usage.total_tokens)
        return cls(
            id=row.id,
            timestamp=isoformat(row.created_at),
            agent_name=row.agent_name,
            session_id=row.session_id,
            user_id=row.user_id,
            endpoint=row.endpoint,
            input_message=row.input,
            output_response=row.output,
            model_info=None if usage is None or usage.model is None else {"model": usage.model},
            token_usage=None
            if tokens is None
            else dict(zip(("input_tokens", "output_tokens", "total_tokens"), tokens, strict=True)),
            total_tokens=None if usage is None else usage.total_tokens,
            response_time_ms=row.response_time / 1000,
            status=row.status,
            error_message=None if row.error is None else row.error.message,
            run_id=row.run_id,
        )


class ChatLogList(BaseModel):
    """Newest first; `total` is how many there are in all."""

    logs: list[ChatLogView]
    total: int
    limit: int
    offset: int


class SessionChatLogs(BaseModel):
    """Of one session, newest first; `total` is how many there are in all."""

    session_id: str
    logs: list[ChatLogView]
    total: int


class StatisticsView(BaseModel):
    """Sums over runs that have ended. What did not end as `completed` counts as failed."""

    total_interactions: int
    successful_interactions: int
    failed_interactions: int
    unique_sessions: int
    unique_users: int
    avg_response_time_ms: float | None
    min_response_time_ms: float | None
    max_response_time_ms: float | None
    total_tokens_sum: int

    @classmethod
    def of(cls, statistics: ChatStatistics, **also: Any) -> Self:
        return cls(
            total_interactions=statistics.interactions,
            successful_interactions=statistics.succeeded,
            failed_interactions=statistics.failed,
            unique_sessions=statistics.sessions,
            unique_users=statistics.users,
            avg_response_time_ms=_milliseconds(statistics.mean_time),
            min_response_time_ms=_milliseconds(statistics.least_time),
            max_response_time_ms=_milliseconds(statistics.most_time),
            total_tokens_sum=statistics.tokens,
            **also,
        )


class AgentStatistics(BaseModel):
    """`agent_name` is the agent that was asked about, null for all of them."""

    agent_name: str | None
    statistics: StatisticsView


class UserStatisticsView(StatisticsView):
    """The sums of one user of an organization."""

    user_id: str
    organization: str
    last_interaction: str

    @classmethod
    def of_user(cls, one: ChatStatistics) -> Self:
        assert one.last_at is not None, "there is no user without a row"
        last = isoformat(one.last_at)
        return cls.of(one, user_id=one.user_id, organization=one.organization, last_interaction=last)


class UserStatisticsList(BaseModel):
    """The busiest first."""

    user_statistics: list[UserStatisticsView]


def _milliseconds(time: float | None) -> float | None:
    return None if time is None else round(time / 1000, 3)


@router.get("", responses=_PROBLEMS, openapi_extra=needs("chat_logs:read"))
async def list_chat_logs(
    query: Annotated[ChatLogQuery, Query()], caller: CallerDep, services: ServicesDep
) -> ChatLogList:
    """Runs that have ended: your own; everybody's for those who operate the server."""
    rows, total = await services.chat_logs.page(
        caller, query.wanted(), limit=query.limit, offset=query.offset, with_contents=query.contents
    )
    shown = [ChatLogView.of(row) for row in rows]
    return ChatLogList(logs=shown, total=total, limit=query.limit, offset=query.offset)


@router.get("/stats", responses=_PROBLEMS, openapi_extra=needs("chat_logs:read"))
async def get_statistics(
    query: Annotated[StatisticsQuery, Query()], caller: CallerDep, services: ServicesDep
) -> AgentStatistics:
    """How many runs there were, how they ended, how long they took, and what they consumed."""
    statistics = await services.chat_logs.statistics(caller, query.wanted())
    return AgentStatistics(agent_name=query.agent_name, statistics=StatisticsView.of(statistics))


@router.get("/stats/users", responses=_PROBLEMS, openapi_extra=needs("chat_logs:read"))
async def list_user_statistics(
    query: Annotated[UserQuery, Query()], caller: CallerDep, services: ServicesDep
) -> UserStatisticsList:
    """The same for each user, the busiest first."""
    found = await services.chat_logs.user_statistics(caller, query.wanted(), limit=query.limit)
    return UserStatisticsList(user_statistics=[UserStatisticsView.of_user(one) for one in found])


@router.get(
    "/sessions/{session_id}",
    responses={**_PROBLEMS, **problems(SessionNotFound)},
    openapi_extra=needs("chat_logs:read"),
)
async def list_session_chat_logs(
    session_id: str, query: Annotated[PageQuery, Query()], caller: CallerDep, services: ServicesDep
) -> SessionChatLogs:
    """Runs of a session that have ended; there is none where none has yet."""
    rows, total = await services.chat_logs.of_session(
        caller,
        session_id,
        user_id=query.user_id,
        limit=query.limit,
        offset=query.offset,
        with_contents=query.contents,
    )
    return SessionChatLogs(session_id=session_id, logs=[ChatLogView.of(row) for row in rows], total=total)
