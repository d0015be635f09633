"""Metrics: what the server has measured, for Prometheus and as JSON, and how much a session holds."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response
from pydantic import BaseModel

from innkeeper.core.errors import Forbidden, RouteNotFound, SessionNotFound, StorageUnavailable, Unauthorized
from innkeeper.http.deps import CallerDep, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.services.figures import Figures

PERMISSION = "observability:read"
_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"

scrape_router = surface(tags=["Health"])
router = surface(prefix="/api/observability", tags=["Control: observability"])


class Percentiles(BaseModel):
    """Milliseconds, as exact as the buckets in which they were counted; `null` where nothing was."""

    p50: float | None
    p95: float | None
    p99: float | None
    count: int


class RequestFigures(BaseModel):
    total: int
    by_status: dict[str, int]
    by_route: dict[str, int]


class RunFigures(BaseModel):
    """`active` are those under way (`running`) and those that wait for their session (`queued`)."""

    active: dict[str, int]
    total: int
    by_status: dict[str, int]
    by_agent: dict[str, int]


class CommandFigures(BaseModel):
    total: int
    by_status: dict[str, int]


class Latencies(BaseModel):
    request_ms: Percentiles
    first_token_ms: Percentiles
    run_ms: Percentiles
    command_ms: Percentiles


class TokenFigures(BaseModel):
    input: int
    output: int
    total: int
    by_agent: dict[str, int]


class StoreFigures(BaseModel):
    commit_ms: Percentiles


class Metrics(BaseModel):
    """Since the server has started, over all of its processes.

    `queue` has the turns that wait here, and what waits in the store, unless that does not answer.
    """

    version: str
    workers: int
    requests: RequestFigures
    runs: RunFigures
    commands: CommandFigures
    latency: Latencies
    tokens: TokenFigures
    queue: dict[str, int]
    streams: dict[str, int]
    store: StoreFigures


class SessionRuns(BaseModel):
    total: int
    by_status: dict[str, int]


class SessionTokens(BaseModel):
    input: int
    output: int
    total: int


class SessionMetrics(BaseModel):
    """How much a session holds; `events` is the length of its log."""

    session_id: str
    messages: int
    runs: SessionRuns
    tokens: SessionTokens
    events: int


@scrape_router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {}}, "description": "The figures in Prometheus's text format."},
        **problems(Unauthorized, Forbidden, RouteNotFound),
    },
    openapi_extra=needs(PERMISSION),
)
async def scrape(services: ServicesDep) -> Response:
    """What the server has measured, for Prometheus."""
    return Response(await _kept(services.figures).text(), media_type=_TEXT_FORMAT)


@router.get(
    "/metrics",
    responses=problems(Unauthorized, Forbidden, SessionNotFound, StorageUnavailable),
    openapi_extra=needs(PERMISSION),
)
async def metrics(
    caller: CallerDep,
    services: ServicesDep,
    session_id: Annotated[str | None, Query(description="Tell how much this session of yours holds.")] = None,
) -> Metrics | SessionMetrics:
    """What the server has measured; with `session_id`, how much that session holds."""
    figures = _kept(services.figures)
    if session_id is not None:
        return SessionMetrics.model_validate(await figures.of_session(caller, session_id))
    return Metrics.model_validate(await figures.summary())


def _kept(figures: Figures | None) -> Figures:
    if figures is None:
        raise RouteNotFound("No figures are kept here; ENABLE_METRICS=true has them kept.")
    return figures
