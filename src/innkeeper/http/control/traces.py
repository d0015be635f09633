"""Traces over HTTP: what was done for a request, and how long each part of it took."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel

from innkeeper.core.errors import Forbidden, StorageUnavailable, TraceNotFound, Unauthorized
from innkeeper.core.times import isoformat
from innkeeper.core.traces import Span, SpanKind, SpanStatus, Trace
from innkeeper.http.deps import CallerDep, HouseDep, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface

router = surface(prefix="/api/observability/traces", tags=["Control: observability"])


class SpanView(BaseModel):
    """A part of a trace. `parent_id` may be a span of the client's; `duration_ms` is null while it goes on."""

    span_id: str
    parent_id: str | None
    name: str
    kind: SpanKind
    started_at: str
    duration_ms: float | None
    status: SpanStatus
    attributes: dict[str, Any]

    @classmethod
    def of(cls, span: Span) -> SpanView:
        return cls(
            span_id=span.span_id,
            parent_id=span.parent_id,
            name=span.name,
            kind=span.kind,
            started_at=isoformat(span.started_at),
            duration_ms=None if span.ended_at is None else (span.ended_at - span.started_at) / 1000,
            status=span.status,
            attributes=dict(span.attributes),
        )


class TraceView(BaseModel):
    """A trace, its spans in order of time; `truncated` says that there are more than are told."""

    trace_id: str
    spans: list[SpanView]
    truncated: bool

    @classmethod
    def of(cls, trace: Trace) -> TraceView:
        spans = [SpanView.of(span) for span in trace.spans]
        return cls(trace_id=trace.trace_id, spans=spans, truncated=trace.is_truncated)


@router.get(
    "/{trace_id}",
    responses=problems(Unauthorized, Forbidden, TraceNotFound, StorageUnavailable),
    openapi_extra=needs("control:read"),
)
async def get_trace(
    trace_id: Annotated[str, Path(description="The `trace_id` of a run or a command.")],
    house: HouseDep,
    caller: CallerDep,
    services: ServicesDep,
) -> TraceView:
    """A trace: its runs and commands with their model calls, tool calls, handlers and store, also while they go on."""
    if not house.is_tracing:
        raise TraceNotFound("Nothing is traced here; ENABLE_TRACING=true has it traced.", param="trace_id")
    return TraceView.of(await services.traces.get(caller, trace_id.lower()))
