"""Control changes: what the control plane writes, as frozen values for the journal, and what it is answered with.

They stand beside `core.changes`, which has the runs' and the sessions' own, and joins all of them to one union.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from innkeeper.core.claims import Claim
from innkeeper.core.commands import Command, CommandError, CommandStatus, Hold
from innkeeper.core.engines import MAX_ENGINES, Engine
from innkeeper.core.identity import Owner
from innkeeper.core.logs import LogRecord
from innkeeper.core.session_events import Note, SessionEvent
from innkeeper.core.sources import HandlerKind, SourceHandler, SourceTool
from innkeeper.core.times import Instant
from innkeeper.core.tokens import Token


@dataclass(frozen=True, slots=True)
class PublishEvent:
    """Append to a session's log, and queue the handlers' reactions to it. `Published`, or `Missing`.

    The event joins the `parameters` of each reaction.
    """

    session_key: str
    note: Note
    reactions: tuple[Command, ...] = ()
    worker: str = ""
    claim: Claim | None = None
    owner: Owner | None = None


@dataclass(frozen=True, slots=True)
class AcceptCommands:
    """Store commands of one session, in order, each with its `command_accepted`; `worker` begins those that are
    `EXECUTING` already. The claim's subject is the first one's id. `AcceptedCommands`, `Repeated` or `Missing`.
    """

    session_key: str
    commands: tuple[Command, ...]
    worker: str
    now: Instant
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class TakeCommands:
    """Begin up to `limit` queued commands, those of higher priority first, then by turns, then as they came."""

    worker: str
    now: Instant
    limit: int


@dataclass(frozen=True, slots=True)
class EndCommand:
    """A command's end, exactly once, with its `command_ended` and, where a handler failed, what tells of it.

    `Stale` where the hold is lost; else `EndedCommand`. Commands that waited for it are free then.
    """

    hold: Hold
    session_key: str
    status: CommandStatus
    now: Instant
    result: object = None
    error: CommandError | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseCommand:
    """Put a command that this worker executes back into the queue."""

    hold: Hold


@dataclass(frozen=True, slots=True)
class CancelCommand:
    """End a queued command as cancelled, or ask for the end of one that is executed. `CancellingCommand`, `Missing`."""

    command_id: str
    owner: Owner
    now: Instant


@dataclass(frozen=True, slots=True)
class TakeDeadCommands:
    """Hold the commands of workers that are gone, to be released or ended; `TakenCommands`."""

    worker: str
    limit: int = 100


@dataclass(frozen=True, slots=True)
class AddHandler:
    """Register a handler; a second one for a command's type in this session is a `HandlerConflict`."""

    handler: SourceHandler


@dataclass(frozen=True, slots=True)
class RemoveHandlers:
    """Unregister a session's handlers for one type; `Missing` where there are none."""

    session_key: str
    kind: HandlerKind
    type: str


@dataclass(frozen=True, slots=True)
class AddTool:
    """Register a tool; another of that name in this session is a `ToolConflict`."""

    tool: SourceTool


@dataclass(frozen=True, slots=True)
class RemoveTool:
    """Unregister a tool; `Missing` where there is none."""

    session_key: str
    name: str


@dataclass(frozen=True, slots=True)
class SetState:
    """Put a value aside under a name, for code of this session; `None` forgets it."""

    session_key: str
    name: str
    value: object
    now: Instant


@dataclass(frozen=True, slots=True)
class CreateEngine:
    """Store an engine; `Missing` where its session does not exist (any more).

    An owner who has `at_most` already is refused with `TooBusy`. The claim keeps the session's id.
    """

    engine: Engine
    claim: Claim | None = None
    at_most: int = MAX_ENGINES


@dataclass(frozen=True, slots=True)
class DeleteEngine:
    """Remove an engine of this owner; its session and runs stay."""

    engine_id: str
    owner: Owner


@dataclass(frozen=True, slots=True)
class CreateToken:
    """Store a token with the digest of its secret."""

    token: Token
    digest: str


@dataclass(frozen=True, slots=True)
class RevokeToken:
    """A token opens nothing from now on; `Missing` where there is none."""

    token_id: str
    now: Instant


@dataclass(frozen=True, slots=True)
class TouchTokens:
    """When tokens were used last; a token is never set back."""

    used: Mapping[str, Instant] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeepLogs:
    """Store log records; a second time, with the same first one, changes nothing."""

    records: tuple[LogRecord, ...]


@dataclass(frozen=True, slots=True)
class ForgetLogs:
    """Drop the records that are older than `before`, the oldest first, up to `limit` of them. `ForgottenLogs`."""

    before: Instant
    limit: int = 10_000


ControlChange = (
    PublishEvent
    | AcceptCommands
    | TakeCommands
    | EndCommand
    | ReleaseCommand
    | CancelCommand
    | TakeDeadCommands
    | AddHandler
    | RemoveHandlers
    | AddTool
    | RemoveTool
    | SetState
    | CreateEngine
    | DeleteEngine
    | CreateToken
    | RevokeToken
    | TouchTokens
    | KeepLogs
    | ForgetLogs
)


@dataclass(frozen=True, slots=True)
class Published:
    """The event in its place, and the reactions to it that `worker` holds already."""

    event: SessionEvent
    reactions: tuple[tuple[Command, Hold], ...] = ()


@dataclass(frozen=True, slots=True)
class AcceptedCommands:
    """The commands as they were stored."""

    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class TakenCommands:
    """Commands that this worker holds now."""

    commands: tuple[tuple[Command, Hold], ...] = ()


@dataclass(frozen=True, slots=True)
class EndedCommand:
    """It is on disk; `freed` says that others had waited for it and may begin."""

    freed: bool = False


@dataclass(frozen=True, slots=True)
class CancellingCommand:
    """The command as it is now; `worker` executes it and has been asked to end it, or is empty."""

    command: Command
    worker: str = ""
    freed: bool = False


@dataclass(frozen=True, slots=True)
class ForgottenLogs:
    """How many were dropped."""

    count: int


ControlOutcome = Published | AcceptedCommands | TakenCommands | EndedCommand | CancellingCommand | ForgottenLogs
