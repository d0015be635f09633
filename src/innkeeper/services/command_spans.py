"""Command spans: a command, or the turn of an event's handler, as spans: how long it waited, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping

from innkeeper.core.commands import Command, CommandStatus
from innkeeper.core.times import Instant
from innkeeper.core.traces import Span, SpanKind, SpanStatus, inner_span_id, span_id_of

_STATUSES: Mapping[CommandStatus, SpanStatus] = {
    CommandStatus.QUEUED: "running",
    CommandStatus.EXECUTING: "running",
    CommandStatus.COMPLETED: "ok",
    CommandStatus.FAILED: "error",
    CommandStatus.CANCELLED: "cancelled",
    CommandStatus.TIMEOUT: "error",
}


def spans_of(command: Command) -> list[Span]:
    """The spans of a command. Of one that is executed anew after a crash, they are those of its last attempt."""
    root, status = span_id_of(command.id), _STATUSES[command.status]
    is_command = command.kind == "command"
    kind: SpanKind = "command" if is_command else "handler"
    name = f"{kind} {command.command_type}"
    ended_at = command.ended_at
    spans = [Span(root, command.parent_span, name, kind, command.created_at, ended_at, status, _told(command))]
    begun = command.started_at
    if begun is None or begun > command.created_at:
        waited: SpanStatus = status if begun is None else "ok"
        spans.append(_inner(command, "queue", "wait", command.created_at, begun or ended_at, waited))
    if is_command and begun is not None:
        spans.append(_inner(command, "handler", f"handler {command.command_type}", begun, ended_at, status))
    return spans


def _inner(
    command: Command, kind: SpanKind, name: str, started_at: Instant, ended_at: Instant | None, status: SpanStatus
) -> Span:
    return Span(inner_span_id(command.id, kind), span_id_of(command.id), name, kind, started_at, ended_at, status, {})


def _told(command: Command) -> Mapping[str, object]:
    told: dict[str, object | None] = {
        "command_id": command.id if command.kind == "command" else None,
        "command_type": command.command_type if command.kind == "command" else None,
        "event_type": command.command_type if command.kind == "reaction" else None,
        "handler": command.handler,
        "session_id": command.session_id,
        "status": command.status.value,
        "attempt": command.attempt,
    }
    if command.error is not None:
        told |= {"error": command.error.code, "error_message": command.error.message}
    return {name: value for name, value in told.items() if value is not None}
