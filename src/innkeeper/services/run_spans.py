"""Run spans: a run as a tree of spans, from its row and from what its session's log tells of it.

The run is the root. Beneath it are the times in which it waited, each attempt of its agent, and its store; beneath an
attempt its model calls, its tool calls and what was injected into it. Reads nothing: it is fed the log in order.
A model call ends with the step that it is, or with the first call of a tool that the step makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from innkeeper.core.runs import Run, RunStatus
from innkeeper.core.session_events import (
    MESSAGE_INJECTED,
    RUN_ENDED,
    RUN_RESUMED,
    RUN_STARTED,
    STEP,
    TOOL_CALL,
    TOOL_RESULT,
    SessionEvent,
)
from innkeeper.core.times import Instant
from innkeeper.core.traces import Span, SpanKind, SpanStatus, inner_span_id, span_id_of

_ENDS: Mapping[RunStatus, SpanStatus] = {
    RunStatus.COMPLETED: "ok",
    RunStatus.FAILED: "error",
    RunStatus.CANCELLED: "cancelled",
    RunStatus.INTERRUPTED: "interrupted",
}


_MAX_ERROR = 512


@dataclass(slots=True)
class _Open:
    """A span that has begun."""

    part: str
    parent_id: str | None
    name: str
    kind: SpanKind
    started_at: Instant
    attributes: dict[str, object] = field(default_factory=dict)


class RunSpans:
    """The spans of one run. `feed` it the log in order, then take `spans`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._root = span_id_of(run.id)
        self._spans: list[Span] = []
        self._agent: _Open | None = None
        self._model: _Open | None = None
        self._tools: dict[str, _Open] = {}
        self._last = run.created_at
        self._timings: Mapping[str, object] = {}
        if run.started_at is not None:
            self._begin(1, run.started_at, waited_since=run.created_at)

    def __len__(self) -> int:
        return len(self._spans)

    def feed(self, event: SessionEvent) -> None:
        """Take the next event of the run."""
        data, at = event.data, event.created_at
        if event.event_type == RUN_RESUMED:
            self._cut_off()
            self._begin(_int(data.get("attempt")) or 2, at, waited_since=self._last)
        elif event.event_type == STEP:
            self._step(data, event.sequence, at)
        elif event.event_type == TOOL_CALL:
            self._call(data, event.sequence, at)
        elif event.event_type == TOOL_RESULT:
            self._return(data, event.sequence, at)
        elif event.event_type == MESSAGE_INJECTED:
            self._inject(data, event.sequence, at)
        elif event.event_type == RUN_ENDED:
            self._timings = cast("Mapping[str, object]", data.get("timings") or {})
        if event.event_type not in (RUN_STARTED, RUN_ENDED):
            self._last = max(self._last, at)

    def spans(self) -> list[Span]:
        """All of them: what goes on yet has no end."""
        run = self._run
        ended_at = run.ended_at
        status: SpanStatus = "running" if ended_at is None else _ENDS.get(run.status, "ok")
        self._end_attempt(ended_at, status)
        if run.started_at is None:
            self._close(_Open("queue", self._root, "wait", "queue", run.created_at), ended_at, status)
        root = Span(
            self._root, run.parent_span, f"run {run.agent_name}", "run", run.created_at, ended_at, status, self._told()
        )
        return [root, *self._stored(), *self._spans]

    # what is open

    def _close(self, one: _Open | None, ended_at: Instant | None, status: SpanStatus) -> None:
        if one is None:
            return
        if ended_at is not None:
            ended_at = max(ended_at, one.started_at)
        told = {name: value for name, value in one.attributes.items() if value is not None}
        span_id = inner_span_id(self._run.id, one.part)
        self._spans.append(Span(span_id, one.parent_id, one.name, one.kind, one.started_at, ended_at, status, told))

    def _begin(self, attempt: int, at: Instant, waited_since: Instant) -> None:
        run, usage = self._run, self._run.usage
        if at > waited_since:
            self._close(_Open(f"queue/{attempt}", self._root, "wait", "queue", waited_since), at, "ok")
        attributes: dict[str, object] = {
            "agent_name": run.agent_name,
            "attempt": attempt,
            "model": None if usage is None else usage.model,
        }
        if usage is not None and attempt == run.attempt:
            attributes |= {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        self._agent = _Open(f"agent/{attempt}", self._root, run.agent_name, "agent", at, attributes)

    def _cut_off(self) -> None:
        """The process that executed an attempt has died, at its last word or later."""
        self._end_attempt(self._last, "interrupted")

    def _end_attempt(self, ended_at: Instant | None, status: SpanStatus) -> None:
        for one in (self._agent, self._model, *self._tools.values()):
            self._close(one, ended_at, status)
        self._agent = self._model = None
        self._tools = {}

    @property
    def _parent(self) -> str:
        return self._root if self._agent is None else inner_span_id(self._run.id, self._agent.part)

    # what the log tells

    def _step(self, data: Mapping[str, object], sequence: int, at: Instant) -> None:
        self._close(self._model, at, "ok")
        self._model = None
        if data.get("status") == "started":
            usage = self._run.usage
            told = {"step_number": data.get("step_number"), "model": None if usage is None else usage.model}
            self._model = _Open(f"model/{sequence}", self._parent, "model call", "model", at, told)

    def _call(self, data: Mapping[str, object], sequence: int, at: Instant) -> None:
        self._close(self._model, at, "ok")
        self._model = None
        name, call_id = str(data.get("tool_name")), str(data.get("tool_call_id"))
        told: dict[str, object] = {"tool_name": name, "tool_call_id": call_id}
        called = _Open(f"tool/{sequence}", self._parent, name, "tool", at, told)
        if data.get("client_side"):
            told["client_side"] = True
            self._close(called, at, "ok")
        else:
            self._close(self._tools.pop(call_id, None), at, "interrupted")
            self._tools[call_id] = called

    def _return(self, data: Mapping[str, object], sequence: int, at: Instant) -> None:
        called = self._tools.pop(str(data.get("tool_call_id")), None)
        took = data.get("duration_ms")
        micros = round(took * 1000) if isinstance(took, int | float) else None
        if called is None:
            name, call_id = str(data.get("tool_name")), str(data.get("tool_call_id"))
            told: dict[str, object] = {"tool_name": name, "tool_call_id": call_id}
            began = Instant(max(self._run.created_at, at - (micros or 0)))
            called = _Open(f"tool/{sequence}", self._parent, name, "tool", began, told)
        if micros is not None:
            at = Instant(called.started_at + max(0, micros))
        error = data.get("error")
        error = None if error is None else str(error)[:_MAX_ERROR]
        called.attributes["error"] = error
        self._close(called, at, "ok" if error is None else "error")

    def _inject(self, data: Mapping[str, object], sequence: int, at: Instant) -> None:
        told = {"injection_id": data.get("injection_id"), "deferred": data.get("deferred")}
        self._close(_Open(f"injection/{sequence}", self._parent, "injected message", "injection", at, told), at, "ok")

    # the run itself

    def _told(self) -> Mapping[str, object]:
        run, usage = self._run, self._run.usage
        told: dict[str, object | None] = {
            "run_id": run.id,
            "session_id": run.session_id,
            "agent_name": run.agent_name,
            "endpoint": run.endpoint,
            "status": run.status.value,
            "attempt": run.attempt,
            "steps": run.steps,
            "background": run.background,
        }
        if usage is not None:
            told |= {
                "model": usage.model,
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "total_tokens": usage.total_tokens,
            }
        if run.error is not None:
            told |= {"error": run.error.code, "error_message": run.error.message}
        told |= {name: self._timings.get(name) for name in ("first_text_ms", "commits", "commit_ms")}
        return {name: value for name, value in told.items() if value is not None}

    def _stored(self) -> list[Span]:
        """The commits of which it is known when they were."""
        began_at, accept = self._timings.get("began_at"), self._timings.get("accept_ms")
        if not isinstance(began_at, int):
            return []
        log = cast("list[list[float]]", self._timings.get("log") or [])
        commits = [("accept", 0.0, accept)] if isinstance(accept, int | float) else []
        commits += [("log", began, took) for began, took in log]
        return [self._commit(number, name, began_at, *when) for number, (name, *when) in enumerate(commits)]

    def _commit(self, number: int, name: str, began_at: int, since: float, took: float) -> Span:
        started_at = Instant(began_at + round(since * 1000))
        ended_at = Instant(started_at + round(took * 1000))
        span_id = inner_span_id(self._run.id, f"store/{number}")
        return Span(span_id, self._root, f"commit {name}", "store", started_at, ended_at, "ok")


def _int(value: object) -> int | None:
    return value if isinstance(value, int) else None
