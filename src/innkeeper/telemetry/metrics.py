"""Metrics: which there are, and the meter that counts them into a book.

A call costs a look-up and an addition. Label values are bounded: agents by their registration, models by number,
methods by a list, routes by their templates; whatever is beyond counts as `other`.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal, Protocol

from innkeeper.core.usage import Usage
from innkeeper.ports.meters import StreamKind
from innkeeper.telemetry.books import Book

OTHER = "other"
DYNAMIC = "dynamic"
MAX_NAMES = 200
_MAX_NAME = 128
_MAX_TOKENS = 2**53
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
_COMMIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `buckets` are the upper bounds of a histogram's, in seconds, without the last, which has none."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """How many cells it takes: a histogram has one a bucket, one for what is beyond, and one for the sum."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1


REQUESTS = Metric("innkeeper_requests_total", "counter", "Requests that were answered.", ("method", "route", "status"))
REQUEST_SECONDS = Metric(
    "innkeeper_request_duration_seconds", "histogram", "From a request's head to its answer's last byte.",
    ("method", "route"), _SECONDS,
)  # fmt: skip
RUNS_ACTIVE = Metric("innkeeper_runs_active", "gauge", "Runs that are executed or wait for their session.", ("state",))
RUNS = Metric("innkeeper_runs_total", "counter", "Runs that have ended.", ("agent", "status"))
FIRST_TOKEN_SECONDS = Metric(
    "innkeeper_run_first_token_seconds", "histogram", "From the beginning of a run's agent to its first text.",
    ("agent",), _SECONDS,
)  # fmt: skip
RUN_SECONDS = Metric(
    "innkeeper_run_duration_seconds", "histogram", "From the beginning of a run's agent to the run's settlement.",
    ("agent",), _SECONDS,
)  # fmt: skip
TOKENS = Metric(
    "innkeeper_tokens_total", "counter", "Tokens, as agents reported them.", ("agent", "model", "direction")
)
COMMANDS = Metric("innkeeper_commands_total", "counter", "Commands that have ended.", ("status",))
COMMAND_SECONDS = Metric(
    "innkeeper_command_duration_seconds", "histogram", "From a command's beginning to its end.", (), _SECONDS
)
QUEUE_DEPTH = Metric("innkeeper_queue_depth", "gauge", "What waits in the store's queues to be taken.", ("queue",))
STREAMS = Metric("innkeeper_streams_open", "gauge", "Streams that are open.", ("kind",))
COMMIT_SECONDS = Metric(
    "innkeeper_store_commit_seconds", "histogram", "From the call of a commit to its answer.", (), _COMMIT_SECONDS
)
WORKERS = Metric("innkeeper_workers", "gauge", "Processes that serve this port.")
INFO = Metric("innkeeper_build_info", "gauge", "1; the version is in the label.", ("version",))

METRICS = (
    REQUESTS, REQUEST_SECONDS, RUNS_ACTIVE, RUNS, FIRST_TOKEN_SECONDS, RUN_SECONDS, TOKENS, COMMANDS, COMMAND_SECONDS,
    QUEUE_DEPTH, STREAMS, COMMIT_SECONDS, WORKERS, INFO,
)  # fmt: skip
"""All that we count; those of the process come from the client library."""


class Agents(Protocol):
    """Which agents are registered by name."""

    def __contains__(self, name: str) -> bool: ...


class BookMeter:
    """Implements `ports.meters.Meter` and `TrafficMeter`; `agents` are the names that are told apart."""

    def __init__(self, book: Book, agents: Agents) -> None:
        self.book = book
        self._cells = book.cells
        self._agents = agents
        self._names: dict[str, str] = {}
        self._models: set[str] = set()
        self._requests: dict[tuple[str, str, int], tuple[int, int]] = {}
        self._ends: dict[tuple[str, str], tuple[int, int]] = {}
        self._firsts: dict[str, int] = {}
        self._tokens: dict[tuple[str, str | None], tuple[int, int]] = {}
        self._command_ends: dict[str, int] = {}
        self._running, self._waiting = (self._gauge(RUNS_ACTIVE, state) for state in ("running", "queued"))
        self._streams = {kind: self._gauge(STREAMS, kind) for kind in ("sse", "websocket")}
        self._commits = self._at(COMMIT_SECONDS)
        self._command_seconds = self._at(COMMAND_SECONDS)

    def _at(self, metric: Metric, *labels: str) -> int:
        return self.book.place(metric.name, labels, metric.width)

    def _gauge(self, metric: Metric, *labels: str) -> int:
        """A gauge begins at nothing, whatever the process before had left in it."""
        at = self._at(metric, *labels)
        self._cells[at] = 0.0
        return at

    def _observe(self, at: int, bounds: tuple[float, ...], seconds: float) -> None:
        cells = self._cells
        cells[at + bisect_left(bounds, seconds)] += 1.0
        cells[at + len(bounds) + 1] += seconds

    def running(self, count: int) -> None:
        self._cells[self._running] = float(count)

    def waiting(self, count: int) -> None:
        self._cells[self._waiting] = float(count)

    def first_text(self, agent_name: str, seconds: float) -> None:
        agent = self._names.get(agent_name) or self._named(agent_name)
        at = self._firsts.get(agent)
        if at is None:
            at = self._firsts[agent] = self._at(FIRST_TOKEN_SECONDS, agent)
        self._observe(at, _SECONDS, seconds)

    def run_ended(self, agent_name: str, status: str, seconds: float | None, usage: Usage | None) -> None:
        agent = self._names.get(agent_name) or self._named(agent_name)
        ends = self._ends.get((agent, status))
        if ends is None:
            ends = self._ends[agent, status] = self._at(RUNS, agent, status), self._at(RUN_SECONDS, agent)
        self._cells[ends[0]] += 1.0
        if seconds is not None:
            self._observe(ends[1], _SECONDS, seconds)
        if usage is not None:
            self._use(agent, usage)

    def _use(self, agent: str, usage: Usage) -> None:
        tokens = self._tokens.get((agent, usage.model))
        if tokens is None:
            model = self._known_model(usage.model)
            at = self._at(TOKENS, agent, model, "input"), self._at(TOKENS, agent, model, "output")
            if model != OTHER:  # of what is told apart no longer, no names are kept either
                self._tokens[agent, usage.model] = at
            tokens = at
        self._cells[tokens[0]] += min(max(0, usage.input_tokens), _MAX_TOKENS)
        self._cells[tokens[1]] += min(max(0, usage.output_tokens), _MAX_TOKENS)

    def _named(self, agent_name: str) -> str:
        """What an agent counts as. Names that dynamic agents answer to are whatever clients ask for."""
        if agent_name not in self._agents:
            return DYNAMIC
        if len(self._names) >= MAX_NAMES:
            return OTHER
        self._names[agent_name] = agent_name
        return agent_name

    def _known_model(self, model: str | None) -> str:
        if model is None:
            return ""
        if model not in self._models:
            if len(self._models) >= MAX_NAMES or len(model) > _MAX_NAME or not model.isprintable():
                return OTHER
            self._models.add(model)
        return model

    def command_ended(self, status: str, seconds: float) -> None:
        at = self._command_ends.get(status)
        if at is None:
            at = self._command_ends[status] = self._at(COMMANDS, status)
        self._cells[at] += 1.0
        self._observe(self._command_seconds, _SECONDS, seconds)

    def committed(self, seconds: float) -> None:
        self._observe(self._commits, _COMMIT_SECONDS, seconds)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        if method not in _METHODS:
            method = OTHER
        at = self._requests.get((method, route, status))
        if at is None:
            counted = self._at(REQUESTS, method, route, str(status))
            at = self._requests[method, route, status] = counted, self._at(REQUEST_SECONDS, method, route)
        self._cells[at[0]] += 1.0
        self._observe(at[1], _SECONDS, seconds)

    def stream_opened(self, kind: StreamKind) -> None:
        self._cells[self._streams[kind]] += 1.0

    def stream_closed(self, kind: StreamKind) -> None:
        self._cells[self._streams[kind]] -= 1.0
