"""Runs: one execution of one agent in one session. A run changes only along `TRANSITIONS`.

Stores persist the result and runtimes cause it, but neither decides it.
Invariant: nothing here performs I/O, reads a clock or mints an id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from innkeeper.core.actions import Continuation
from innkeeper.core.claims import Claim
from innkeeper.core.events import FinishReason
from innkeeper.core.identity import Owner
from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.times import Instant
from innkeeper.core.traces import SpanPlace, span_id_of
from innkeeper.core.transcripts import HistoryMode
from innkeeper.core.usage import Pricing, Usage


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    REQUIRES_ACTION = "requires_action"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_terminal(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.CANCELLED, RunStatus.FAILED, RunStatus.INTERRUPTED}),
    RunStatus.RUNNING: frozenset(
        {
            RunStatus.QUEUED,
            RunStatus.REQUIRES_ACTION,
            RunStatus.COMPLETED,
            RunStatus.FAILED,
            RunStatus.CANCELLED,
            RunStatus.INTERRUPTED,
        }
    ),
    RunStatus.REQUIRES_ACTION: frozenset(
        {RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.CANCELLED, RunStatus.FAILED, RunStatus.INTERRUPTED}
    ),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
    RunStatus.INTERRUPTED: frozenset(),
}

UNDER_WAY = frozenset({RunStatus.QUEUED, RunStatus.RUNNING})
"""Those in which a run comes to something by itself."""

OPEN_STATUSES = tuple(status for status in RunStatus if not status.is_terminal)


def sources_of(target: RunStatus) -> tuple[RunStatus, ...]:
    """The statuses from which a run may become `target`."""
    return tuple(status for status, targets in TRANSITIONS.items() if target in targets)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a request asks of the model behind an agent. `None` leaves it to the agent's own settings.

    `tools`, `tool_choice` and `response_format` are in OpenAI's chat form. `model` is only for agents whose
    description `accepts_models`. `instructions` are for this run alone: they become no part of the conversation.
    `affordable_tokens` is no wish, but what the run can still pay for; requests do not have it.
    """

    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    tools: tuple[Mapping[str, object], ...] = ()
    tool_choice: str | Mapping[str, object] | None = None
    response_format: Mapping[str, object] | None = None
    allowed_tools: tuple[str, ...] | None = None
    workflow: str | None = None
    variables: Mapping[str, object] | None = None
    model: str | None = None
    instructions: str | None = None
    affordable_tokens: int | None = None


NO_PARAMETERS = Parameters()


def given_of(parameters: Parameters) -> dict[str, object]:
    """Those that a request gave, by their names."""
    named = {name: getattr(parameters, name) for name in Parameters.__dataclass_fields__}
    return {name: value for name, value in named.items() if value != getattr(NO_PARAMETERS, name)}


OnDisconnect = Literal["continue", "cancel"]
WhenBusy = Literal["queue", "reject", "interrupt", "steer"]


@dataclass(frozen=True, slots=True)
class StartRun:
    """A request to run an agent, as every surface words it.

    `messages` is what the client sent, oldest first; `on_disconnect` and `grace` (seconds) say what happens
    when the last reader leaves; `recorded=False` keeps the conversation only until the run has ended. A run in the
    `background` goes through the queue; `webhook` is told of its end; `claim` is the request's idempotency key.
    `engine_id` is the engine that is executed; `parent` the span of the client's own trace, if it told one. `follows`
    is the run after whose end this one continues the conversation, in a branch where others have; `request` is what the
    surface needs to know of the request when it tells of the run later.
    """

    agent_name: str | None
    messages: tuple[Message, ...]
    endpoint: str
    session_id: str | None = None
    user_id: str | None = None
    stream: bool = False
    recorded: bool = True
    history: HistoryMode = "auto"
    parameters: Parameters = NO_PARAMETERS
    metadata: Mapping[str, object] = field(default_factory=dict)
    on_disconnect: OnDisconnect = "continue"
    grace: float = 0.0
    when_busy: WhenBusy = "queue"
    background: bool = False
    webhook: str | None = None
    claim: Claim | None = None
    engine_id: str | None = None
    parent: SpanPlace | None = None
    follows: str | None = None
    request: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What must be known to execute a run that was stored, beside its row: how its request was worded."""

    parameters: Parameters = NO_PARAMETERS
    history: HistoryMode = "auto"
    follows: str | None = None


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run failed; `message` is safe to show to its caller."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it is stored. `session_id` is the client's id, `session_key` the internal one.

    What is said in one that is not `recorded` is gone once it has ended.
    `pricing` is what its agent cost when it was accepted, and `reserved` what is set aside for it, in billionths of a
    credit; `None` where its caller has no balance.
    """

    id: str
    owner: Owner
    user_id: str
    session_key: str
    session_id: str
    agent_name: str
    endpoint: str
    status: RunStatus
    turn: int
    created_at: Instant
    input: tuple[Message, ...] = ()
    output: str | None = None
    error: RunError | None = None
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    steps: int = 0
    background: bool = False
    recorded: bool = True
    attempt: int = 1
    last_seq: int = 0
    is_cancelling: bool = False
    metadata: Mapping[str, object] = field(default_factory=dict)
    started_at: Instant | None = None
    ended_at: Instant | None = None
    own_trace_id: str | None = None
    parent_span: str | None = None
    pricing: Pricing | None = None
    reserved: int | None = None
    request: Mapping[str, object] | None = None

    @property
    def trace_id(self) -> str:
        """The trace that the run is part of: its client's, or else one of its own."""
        return self.own_trace_id or self.id.removeprefix("run_")

    @property
    def place(self) -> SpanPlace:
        """Its span, for whatever it causes."""
        return SpanPlace(self.trace_id, span_id_of(self.id))


@dataclass(frozen=True, slots=True)
class Resumption:
    """A run that is taken up again: `steps` that were begun, and the calls that were made and have no result."""

    attempt: int
    steps: int = 0
    open_calls: tuple[ToolUse, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """What a runtime is handed: the whole conversation, oldest first, instructions in front, and the wishes.

    `stream` tells whether the caller reads along; a runtime may yield deltas either way. Where an earlier attempt
    was cut off, `resumption` says so, and `messages` ends with what that one had done. Where the run was paused by its
    runtime and goes on, `continuation` has what it put aside, and the answers.
    """

    messages: tuple[Message, ...]
    parameters: Parameters = NO_PARAMETERS
    stream: bool = False
    resumption: Resumption | None = None
    continuation: Continuation | None = None

    @property
    def prompt(self) -> str:
        """The text of the last user message."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text
        return ""
