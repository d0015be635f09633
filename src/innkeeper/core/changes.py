"""Changes: everything that may be written, as frozen values for the journal.

A list of changes is applied in one transaction, in order. Each answers with one outcome; a change that a
fence refuses answers `Stale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from innkeeper.core.action_changes import ActionChange
from innkeeper.core.administration import AdministrationChange
from innkeeper.core.claims import Claim
from innkeeper.core.control_changes import ControlChange
from innkeeper.core.credits import ModelUsage, Terms
from innkeeper.core.events import EndStatus, FinishReason
from innkeeper.core.file_changes import FileChange
from innkeeper.core.identity import Owner
from innkeeper.core.messages import Message
from innkeeper.core.runs import Plan, Run, RunError, WhenBusy
from innkeeper.core.segments import Fence as Fence
from innkeeper.core.segments import Segment as Segment
from innkeeper.core.session_events import Note
from innkeeper.core.sessions import Lineage as Lineage
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.core.transcripts import HistoryMode, Transcript
from innkeeper.core.usage import CreditRecord, Usage


@dataclass(frozen=True, slots=True)
class AcceptRun:
    """Store a run with its user message and first event, and its session where that is new.

    `run` is the run as it will be if it can start at once; where its session is busy it is stored queued,
    or refused when `when_busy` says so. `new_session` is used only if no session answers to its owner,
    end user and id. One that is not `recorded` gets a session of its own, whatever it names: it must
    neither change nor end one that is kept. A run in the background is stored queued, with the `plan` by which
    any process can execute it. Injections that waited for this turn become its first messages. It becomes the last
    run of the engine `engine_id`, which must be one of that session: else `EngineNotFound`. What its `terms` ask for
    is set aside of its caller's balances, or it is refused with `InsufficientCredits`. One that `only_joins` makes no
    run: it is answered with what the same request made before, or steers the run under way, or it is `Missing`.
    """

    run: Run
    transcript: Transcript
    history: HistoryMode
    first: Segment
    new_session: Session
    worker: str
    names_session: bool = False
    names_user: bool = False
    when_busy: WhenBusy = "queue"
    max_queue: int = 10
    plan: Plan | None = None
    webhook: str | None = None
    claim: Claim | None = None
    engine_id: str | None = None
    terms: Terms | None = None
    only_joins: bool = False


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
class TakeQueued:
    """Begin the background run that has waited longest and whose turn has come; `Missing` if there is none."""

    worker: str
    now: Instant


@dataclass(frozen=True, slots=True)
class ReleaseRun:
    """Put a background run that this worker executes back into the queue, to be taken up again."""

    run_id: str


@dataclass(frozen=True, slots=True)
class RequestCancel:
    """Ask for the end of a run, whoever executes it; one that nobody has, queued or paused, is taken by `worker`."""

    run_id: str
    owner: Owner
    worker: str
    now: Instant


@dataclass(frozen=True, slots=True)
class TakeDead:
    """Take over the runs of workers that are gone; background runs go back into the queue.

    A run that has been begun `max_attempts` times is not queued again, but handed over to be ended. On PostgreSQL
    a worker is gone that has not been seen for `patience` seconds, by the database's clock.
    """

    worker: str
    max_attempts: int
    patience: float = 10.0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class KeepWorker:
    """This worker is alive; `process` tells others on the same machine which process it is."""

    worker: str
    process: str


@dataclass(frozen=True, slots=True)
class RetireWorkers:
    """These workers are gone, and need not be waited for."""

    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AcceptInjection:
    """Store a message for the newest run under way that fits `session_key`, `run_id` and `agent_name`.

    Where none is, it waits for the next run: of the named session, else of this owner with `agent_name`. A named
    run that has ended leaves it to its session. `names_agent=False` says that `agent_name` is only for the latter.
    `user_id` is the end user whose run it must be; without a session, nothing waits for one of those.
    """

    id: str
    owner: Owner
    content: str
    agent_name: str | None
    now: Instant
    session_key: str | None = None
    run_id: str | None = None
    names_agent: bool = False
    claim: Claim | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class DeliverInjections:
    """Put what was injected into a run at the end of its log, which is at `after`, and mark it as delivered."""

    after: int
    now: Instant
    session_key: str = ""


@dataclass(frozen=True, slots=True)
class KeepClaim:
    """Remember that a request has made `subject`; first in its call, so that nothing is made where it is known."""

    owner: Owner
    claim: Claim
    subject: str
    now: Instant
    answer: bytes | None = None


@dataclass(frozen=True, slots=True)
class ForgetClaims:
    """Drop the keys that are older than their lifetime."""

    now: Instant


@dataclass(frozen=True, slots=True)
class AppendEvents:
    """Add a segment to the run's log; `notes` tell of it in the log of the session, which must be named then.

    `records` are what the agent has tracked meanwhile.
    """

    segment: Segment
    now: Instant
    notes: tuple[Note, ...] = ()
    session_key: str = ""
    records: tuple[CreditRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class EndRun:
    """The run's settlement: its last events, messages, usage, credits and final status, exactly once.

    `visible` is the assistant's turn as clients saw it, which is what a client's transcript is compared with; `notes`
    tell of the last events in the session's log, before the end itself, which tells the `timings`. Of what was set
    aside for the run, what it has cost is taken, `records` of earlier commits included, and the rest is given back;
    at most `ceiling`.
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
    notes: tuple[Note, ...] = ()
    timings: Mapping[str, object] | None = None
    models: tuple[ModelUsage, ...] = ()
    ceiling: Decimal | None = None


@dataclass(frozen=True, slots=True)
class RecordCredits:
    """Ledger rows that were tracked after the run had been settled; of the balances it takes what is left of them."""

    run_id: str
    records: tuple[CreditRecord, ...]


@dataclass(frozen=True, slots=True)
class CreateSession:
    """Store a session that a client asked for; one that exists is a conflict.

    `token_digest` is that of the token that opens this session and nothing else.
    """

    session: Session
    token_digest: str | None = None


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
class DeleteRun:
    """Make a run that has ended one that was not to be recorded: no contents, no log. The conversation keeps its turn.

    One that has not ended is a conflict.
    """

    run_id: str
    owner: Owner


@dataclass(frozen=True, slots=True)
class AppendMessages:
    """Add messages to a session's head without running anything. The claim keeps the first one's position."""

    session_key: str
    messages: tuple[Message, ...]
    now: Instant
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class TakeDeliveries:
    """Hold up to `limit` webhook deliveries that are due, the one that waits longest first; see `core.webhooks.HOLD`.

    Due is what is neither delivered nor given up, whose next attempt is not after `now`, and what nobody holds.
    Answered with `TakenDeliveries`.
    """

    worker: str
    now: Instant
    limit: int


@dataclass(frozen=True, slots=True)
class SettleDelivery:
    """How an attempt went: delivered; or to be tried at `retry_at`; or, without that, given up. Nobody holds it then.

    What is delivered stays so, whatever is said of it later.
    """

    id: str
    is_delivered: bool
    retry_at: Instant | None
    now: Instant


Change = (
    AcceptRun
    | BeginRun
    | TakeQueued
    | ReleaseRun
    | RequestCancel
    | TakeDead
    | KeepWorker
    | RetireWorkers
    | AcceptInjection
    | DeliverInjections
    | KeepClaim
    | ForgetClaims
    | AppendEvents
    | EndRun
    | RecordCredits
    | CreateSession
    | UpdateSession
    | DeleteSession
    | DeleteRun
    | AppendMessages
    | TakeDeliveries
    | SettleDelivery
    | ActionChange
    | FileChange
    | ControlChange
    | AdministrationChange
)


@dataclass(frozen=True, slots=True)
class Batch:
    """One call of the journal."""

    changes: tuple[Change, ...]
    fence: Fence | None = None
