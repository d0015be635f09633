"""The kinds of events, a union of frozen values. What they are called in JSON is told by `payloads`, not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from innkeeper.core.actions import Action, Answer
from innkeeper.core.usage import Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
EndStatus = Literal["completed", "failed", "cancelled", "interrupted"]


@dataclass(frozen=True, slots=True)
class RunStarted:
    run_id: str
    session_id: str
    agent_name: str


@dataclass(frozen=True, slots=True)
class RunResumed:
    """A process died, and another goes on. Text beyond the first `output_length` characters is void.

    `is_restart` says that the agent begins anew, so that nothing of what it had told before holds.
    """

    attempt: int
    output_length: int = 0
    is_restart: bool = False


@dataclass(frozen=True, slots=True)
class TextDelta:
    content: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    content: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """`arguments` is JSON text. `is_client_side` marks a call that the client answers in its next request."""

    tool_name: str
    tool_call_id: str
    arguments: str
    is_client_side: bool = False


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """Exactly one of `result` (any JSON value) and `error` is meant; `duration_ms` is wall time."""

    tool_name: str
    tool_call_id: str
    result: object = None
    error: str | None = None
    duration_ms: float | None = None


@dataclass(frozen=True, slots=True)
class StepChanged:
    """A step is one model call with the tools it asked for; numbers begin at 1."""

    step_number: int
    status: Literal["started", "completed"]


@dataclass(frozen=True, slots=True)
class MessageInjected:
    """A message that steers the run. One that `was_deferred` had waited for it, and came before its first word."""

    content: str
    injection_id: str
    was_deferred: bool = False


@dataclass(frozen=True, slots=True)
class UsageReported:
    """Tokens since the previous report; a run's usage is the sum of its reports."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class FinishNoted:
    """A runtime says why the model stopped; it is folded into `RunEnded` and never logged."""

    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Paused:
    """A runtime can go on only when these have been answered, from `state`; it ends after it. It is never logged."""

    actions: tuple[Action, ...]
    state: str


@dataclass(frozen=True, slots=True)
class ActionRequired:
    """The run is paused: its log goes on when all has been answered. `expires_at` is ISO 8601."""

    run_id: str
    actions: tuple[Action, ...]
    expires_at: str


@dataclass(frozen=True, slots=True)
class ActionsAnswered:
    """The run goes on."""

    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class RunFailed:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    run_id: str
    session_id: str
    status: EndStatus
    output: str
    usage: Usage | None
    finish_reason: FinishReason | None


AgentEvent = (
    TextDelta
    | ReasoningDelta
    | ToolCalled
    | ToolReturned
    | StepChanged
    | MessageInjected
    | UsageReported
    | FinishNoted
    | Paused
)
Event = RunStarted | RunResumed | AgentEvent | ActionRequired | ActionsAnswered | RunFailed | RunEnded
