"""Session events: what happens in a session, in the order of that session's own append-only log.

What runs do, commands, failures of handlers, and events that clients and handlers publish. Text deltas are in their
run's log only. `sequence` is gapless a session and assigned in the commit, so it orders what several processes write.
Invariant: `created_at` never goes back within a session.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from innkeeper.core.times import Instant

Source = Literal["server", "client", "handler"]

RUN_STARTED, RUN_RESUMED, RUN_ENDED = "run_started", "run_resumed", "run_ended"
STEP, TOOL_CALL, TOOL_RESULT, MESSAGE_INJECTED = "step", "tool_call", "tool_result", "message_injected"
ACTION_REQUIRED, ACTION_ANSWERED = "requires_action", "action_answered"
COMMAND_ACCEPTED, COMMAND_ENDED = "command_accepted", "command_ended"
HANDLER_FAILED = "HandlerFailed"
SERVER_TYPES = frozenset(
    {
        RUN_STARTED, RUN_RESUMED, RUN_ENDED, STEP, TOOL_CALL, TOOL_RESULT, MESSAGE_INJECTED, COMMAND_ACCEPTED,
        COMMAND_ENDED, HANDLER_FAILED, ACTION_REQUIRED, ACTION_ANSWERED,
    }
)  # fmt: skip
"""Types that the server alone writes: nobody else may publish an event that looks as if it had happened."""

MAX_TYPE = 128
TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
"""How an event's or a command's type may look."""


@dataclass(frozen=True, slots=True)
class Note:
    """An event that has no place in the log yet."""

    event_type: str
    created_at: Instant
    data: Mapping[str, object] = field(default_factory=dict)
    source: Source = "server"
    run_id: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """An event in its place; `session_id` is what clients call the session."""

    session_key: str
    session_id: str
    sequence: int
    event_type: str
    data: Mapping[str, object]
    source: Source
    created_at: Instant
    run_id: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def event_id(self) -> str:
        return event_id(self.session_key, self.sequence)


def event_id(session_key: str, sequence: int) -> str:
    """What clients call an event: its session's key and its place in that session's log."""
    return f"evt_{session_key}_{sequence}"


def sequence_of(session_key: str, name: str) -> int | None:
    """The place of the event that is called `name`, if it may be one of this session."""
    prefix, _, place = name.rpartition("_")
    if prefix != f"evt_{session_key}" or not (place.isascii() and place.isdigit()) or len(place) > 18:
        return None
    return int(place)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events of a session: of one type, beyond a sequence, from an instant on, and before another."""

    event_type: str | None = None
    after: int = 0
    since: Instant | None = None
    until: Instant | None = None


_NOTED = {
    "step": STEP,
    "tool_call": TOOL_CALL,
    "tool_result": TOOL_RESULT,
    "message_injected": MESSAGE_INJECTED,
    "requires_action": ACTION_REQUIRED,
    "action_answered": ACTION_ANSWERED,
}
_MAX_NOTED = 16 * 1024


def note_of(run_id: str, seq: int, payload: bytes, now: Instant) -> Note | None:
    """What the session's log tells of an event of a run, which is at `seq` of the run's own log; often nothing.

    Of an event that is very long it keeps what is short in it, and says that it is `truncated`.
    """
    told = json.loads(payload)
    event_type = _NOTED.get(told.pop("type"))
    if event_type is None:
        return None
    if len(payload) > _MAX_NOTED:
        told = {name: value for name, value in told.items() if _is_short(value)} | {"truncated": True}
    return Note(event_type, now, {"seq": seq, **told}, run_id=run_id)


def _is_short(value: object) -> bool:
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= MAX_TYPE)
