"""Spans for OpenTelemetry: what a trace tells, under OpenTelemetry's names, sent with OTLP over HTTP by its SDK.

The SDK's batch processor sends from a thread of its own, keeps a bounded number of spans, and drops what a collector
that is away does not take. The process-wide providers of OpenTelemetry are left alone: they are the application's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from innkeeper.core.traces import Span

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_MAX_TEXT = 256
_KINDS = {"run": SpanKind.SERVER, "command": SpanKind.SERVER, "model": SpanKind.CLIENT}
_OPERATIONS = {"agent": "invoke_agent", "model": "chat", "tool": "execute_tool"}
_NAMES = {
    "session_id": "gen_ai.conversation.id",
    "agent_name": "gen_ai.agent.name",
    "model": "gen_ai.response.model",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "tool_name": "gen_ai.tool.name",
    "tool_call_id": "gen_ai.tool.call.id",
}
_OF_THE_AGENT = ("input_tokens", "output_tokens", "total_tokens")
"""What the agent's span says: said twice, it would be counted twice."""


class OtlpSpans:
    """Implements `ports.spans.SpanSink`. `endpoint` is the base address of a collector."""

    def __init__(self, endpoint: str, service_name: str, version: str) -> None:
        self._resource = Resource.create({SERVICE_NAME: service_name, SERVICE_VERSION: version})
        self._scope = InstrumentationScope("innkeeper", version)
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._processor = BatchSpanProcessor(self._exporter)

    def take(self, trace_id: str, spans: Sequence[Span]) -> None:
        for span in spans:
            if span.ended_at is not None:
                self._processor.on_end(self._readable(int(trace_id, 16), span, span.ended_at))

    def _readable(self, trace_id: int, span: Span, ended_at: int) -> ReadableSpan:
        return ReadableSpan(
            _name(span),
            context=SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=_SAMPLED),
            parent=None
            if span.parent_id is None
            else SpanContext(trace_id, int(span.parent_id, 16), is_remote=False, trace_flags=_SAMPLED),
            resource=self._resource,
            attributes=_attributes(span),
            kind=_KINDS.get(span.kind, SpanKind.INTERNAL),
            status=_status(span),
            start_time=span.started_at * 1000,
            end_time=ended_at * 1000,
            instrumentation_scope=self._scope,
        )

    async def close(self, patience: float) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        def shut_down() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's own omission
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish)

        # A thread that nobody waits for at exit, because it may be in the middle of a request that nobody answers.
        threading.Thread(target=shut_down, name="innkeeper-spans", daemon=True).start()
        await asyncio.wait([done], timeout=patience)
        if not done.done():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK's own omission


def _name(span: Span) -> str:
    operation = _OPERATIONS.get(span.kind)
    if operation is None:
        return span.name
    subject = span.attributes.get("model") if span.kind == "model" else span.name
    return operation if subject is None else f"{operation} {subject}"


def _attributes(span: Span) -> Mapping[str, AttributeValue]:
    told: dict[str, AttributeValue] = {"innkeeper.span.kind": span.kind}
    for name, value in span.attributes.items():
        if span.kind == "run" and name in _OF_THE_AGENT:
            continue
        known = _NAMES.get(name, f"innkeeper.{name}")
        told[known] = value if isinstance(value, bool | int | float) else str(value)[:_MAX_TEXT]
    if span.kind in _OPERATIONS:
        told["gen_ai.operation.name"] = _OPERATIONS[span.kind]
    if span.status not in ("ok", "running"):
        told["error.type"] = _error_type(span)
    return told


def _error_type(span: Span) -> str:
    if span.status != "error":
        return span.status
    error = span.attributes.get("error")
    return "tool_error" if span.kind == "tool" else "error" if error is None else str(error)[:_MAX_TEXT]


def _status(span: Span) -> Status:
    if span.status in ("error", "interrupted"):
        reason = span.attributes.get("error_message", span.attributes.get("error", span.status))
        return Status(StatusCode.ERROR, str(reason)[:_MAX_TEXT])
    return Status(StatusCode.UNSET)
