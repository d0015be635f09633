"""Changes: everything that may be written, as frozen values for the journal.

A list of changes is applied in one transaction, in order. Each answers with one outcome; a change that a
fence refuses answers `Stale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from innkeeper.core.events import EndStatus, FinishReason
from innkeeper.core.messages import Message
from innkeeper.core.runs import Run, RunError, WhenBusy
from innkeeper.core.sessions import Head, Session, StoredMessage
from innkeeper.core.times import Instant
from innkeeper.core.transcripts import HistoryMode, Transcript
from innkeeper.core.usage import CreditRecord, Usage


@dataclass(frozen=True, slots=True)
class Fence:
    """Writes for a run hold only while this worker still owns this epoch of it."""

    run_id: str
    worker: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive events of a run as one row: payloads joined by newlines."""

    first_seq: int
    count: int
    data: bytes

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.count - 1

    def payloads(self) -> list[bytes]:
        return self.data.split(b"\n")


@dataclass(frozen=True, slots=True)
class AcceptRun:
    """Store a run with its user message and first event, and its session where that is new.

    `run` is the run as it will be if it can start at once; where its session is busy it is stored queued,
    or refused when `when_busy` says so. `new_session` is used only if no session answers to its owner,
    end user and id. A run that is not `recorded` gets a session of its own, whatever it names: it must
    neither change nor end one that is kept.
    """

    run: Run
    transcript: Transcript
    history: HistoryMode
    first: Segment
    new_session: Session
    worker: str
    recorded: bool = True
    names_session: bool = False
    names_user: bool = False
    when_busy: WhenBusy = "queue"
    max_queue: int = 10


@dataclass(frozen=True, slots=True)
class BeginRun:
    """Start a queued run whose turn has come: its messages join the history now."""

    run_id: str
    session_key: str
    transcript: Transcript
    history: HistoryMode
    worker: str
    now: Instant


@dataclass(frozen=True, slots=True)
class AppendEvents:
    """Add a segment to the run's log."""

    segment: Segment
    now: Instant


@dataclass(frozen=True, slots=True)
class EndRun:
    """The run's settlement: its last events, messages, usage, credits and final status, exactly once.

    `visible` is the assistant's turn as clients saw it, which is what a client's transcript is compared with.
    """

    run_id: str
    session_key: str
    status: EndStatus
    segment: Segment
    now: Instant
    messages: tuple[Message, ...] = ()
    visible: Message | None = None
    output: str = ""
    error: RunError | None = None
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    steps: int = 0
    records: tuple[CreditRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordCredits:
    """Ledger rows that were tracked after the run had been settled."""

    run_id: str
    records: tuple[CreditRecord, ...]


@dataclass(frozen=True, slots=True)
class CreateSession:
    """Store a session that a client asked for; one that exists is a conflict."""

    session: Session


@dataclass(frozen=True, slots=True)
class UpdateSession:
    """Change what is named; `None` leaves a field as it is."""

    session_key: str
    now: Instant
    title: str | None = None
    clears_title: bool = False
    metadata: Mapping[str, object] | None = None
    archived: bool | None = None


@dataclass(frozen=True, slots=True)
class DeleteSession:
    """Remove a session with its messages, runs and events. Its ledger rows stay."""

    session_key: str


@dataclass(frozen=True, slots=True)
class AppendMessages:
    """Add messages to a session's head without running anything."""

    session_key: str
    messages: tuple[Message, ...]
    now: Instant


Change = (
    AcceptRun
    | BeginRun
    | AppendEvents
    | EndRun
    | RecordCredits
    | CreateSession
    | UpdateSession
    | DeleteSession
    | AppendMessages
)


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which messages a history consists of: from each branch, those up to and including a position."""

    session_key: str
    spans: tuple[tuple[int, int], ...]
    head: Head


@dataclass(frozen=True, slots=True)
class Accepted:
    """The run is on disk. `lineage` and `epoch` are meaningful once it runs."""

    run: Run
    lineage: Lineage | None
    epoch: int = 1
    is_new_session: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """The queued run now runs; `None` as outcome means that it is not its turn."""

    lineage: Lineage
    epoch: int


@dataclass(frozen=True, slots=True)
class Ended:
    """`next_run_id` is the run that waits for this session, if one does."""

    next_run_id: str | None


@dataclass(frozen=True, slots=True)
class Appended:
    messages: tuple[StoredMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The change was applied."""

    session: Session | None = None


@dataclass(frozen=True, slots=True)
class Stale:
    """The fence was behind: nothing was written."""


@dataclass(frozen=True, slots=True)
class Missing:
    """The row to change does not exist (any more)."""


Outcome = Accepted | Begun | Ended | Appended | Done | Stale | Missing


@dataclass(frozen=True, slots=True)
class Batch:
    """One call of the journal."""

    changes: tuple[Change, ...]
    fence: Fence | None = None
