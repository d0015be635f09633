"""Events: what happens in a run, in the order of the run's log. A union of frozen values, by `kinds`.

`payload` is the one canonical encoding of an event: what the log stores and what native streams send. It is
fixed before the event gets its place in the log, so a replay is byte-equal to the live stream. `read` is its inverse.
Invariant: a run's log begins with `RunStarted` and ends with exactly one `RunEnded`.
"""

from __future__ import annotations

from innkeeper.core.events.checks import check_event
from innkeeper.core.events.kinds import (
    ActionRequired,
    ActionsAnswered,
    AgentEvent,
    EndStatus,
    Event,
    FinishNoted,
    FinishReason,
    MessageInjected,
    Paused,
    ReasoningDelta,
    RunEnded,
    RunFailed,
    RunResumed,
    RunStarted,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.core.events.payloads import payload, shown_action, shown_usage, text_payloads
from innkeeper.core.events.reading import read
from innkeeper.core.json_texts import json_bytes, json_string, scrubbed

__all__ = [
    "ActionRequired",
    "ActionsAnswered",
    "AgentEvent",
    "EndStatus",
    "Event",
    "FinishNoted",
    "FinishReason",
    "MessageInjected",
    "Paused",
    "ReasoningDelta",
    "RunEnded",
    "RunFailed",
    "RunResumed",
    "RunStarted",
    "StepChanged",
    "TextDelta",
    "ToolCalled",
    "ToolReturned",
    "UsageReported",
    "check_event",
    "json_bytes",
    "json_string",
    "payload",
    "read",
    "scrubbed",
    "shown_action",
    "shown_usage",
    "text_payloads",
]
