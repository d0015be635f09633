"""Commands: what is asked of a session's command handlers. A command changes only along `COMMAND_TRANSITIONS`.

A reaction is an event handler's turn: it is stored, queued, executed and ended as a command is, and nobody asks for
its result. Whether a command may be executed again after its process died is its handler's to say.
Invariant: nothing here performs I/O, reads a clock or mints an id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Literal

from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant
from innkeeper.core.traces import SpanPlace, span_id_of


class CommandStatus(StrEnum):
    QUEUED = "queued"
    EXECUTING = "executing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def is_terminal(self) -> bool:
        return not COMMAND_TRANSITIONS[self]


_ENDS = frozenset({CommandStatus.COMPLETED, CommandStatus.FAILED, CommandStatus.CANCELLED, CommandStatus.TIMEOUT})

COMMAND_TRANSITIONS: Mapping[CommandStatus, frozenset[CommandStatus]] = {
    CommandStatus.QUEUED: frozenset({CommandStatus.EXECUTING, CommandStatus.CANCELLED, CommandStatus.FAILED}),
    CommandStatus.EXECUTING: _ENDS | {CommandStatus.QUEUED},
    CommandStatus.COMPLETED: frozenset(),
    CommandStatus.FAILED: frozenset(),
    CommandStatus.CANCELLED: frozenset(),
    CommandStatus.TIMEOUT: frozenset(),
}


class Priority(IntEnum):
    """Higher ones are started first; within one, tenants take turns, and of each the first come is first served."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


DEFAULT_TIMEOUT = 30.0
MIN_TIMEOUT, MAX_TIMEOUT = 1.0, 600.0
"""Seconds that a command may be executed for."""

MAX_BATCH = 1000
MAX_TURN = 9_999
"""Of those that wait, all later ones have this turn."""
MAX_DEPTH = 16
"""How many commands and events may have caused each other, one within the other."""

CommandKind = Literal["command", "reaction"]


@dataclass(frozen=True, slots=True)
class CommandError:
    """Why a command did not complete; `message` is safe to show to its caller."""

    code: str
    message: str
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it is stored. A reaction's `parameters` are its event, and `handler` says whose turn it is.

    `timeout` is in seconds; `depth` counts what caused it; `waits_for` is the command that must have ended before. Of
    one priority, those with a lower `turn` are begun first.
    """

    id: str
    owner: Owner
    user_id: str
    session_key: str
    session_id: str
    command_type: str
    created_at: Instant
    parameters: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    kind: CommandKind = "command"
    handler: str | None = None
    priority: Priority = Priority.NORMAL
    timeout: float = DEFAULT_TIMEOUT
    depth: int = 0
    status: CommandStatus = CommandStatus.QUEUED
    waits_for: str | None = None
    turn: int = 0
    attempt: int = 0
    is_cancelling: bool = False
    result: object = None
    error: CommandError | None = None
    own_trace_id: str | None = None
    parent_span: str | None = None
    started_at: Instant | None = None
    ended_at: Instant | None = None

    @property
    def trace_id(self) -> str:
        """The trace that it is part of: that of whoever asked for it, or else one of its own."""
        return self.own_trace_id or self.id.removeprefix("cmd_")

    @property
    def place(self) -> SpanPlace:
        """Its span, for whatever it causes."""
        return SpanPlace(self.trace_id, span_id_of(self.id))


@dataclass(frozen=True, slots=True)
class Hold:
    """A command that this worker executes: what it writes holds only while the epoch is the same."""

    command_id: str
    worker: str
    epoch: int
