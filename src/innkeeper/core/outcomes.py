"""Outcomes: what the journal answers a change with, once it is on disk or refused. The changes are `core.changes`."""

from __future__ import annotations

from dataclasses import dataclass

from innkeeper.core.action_changes import ActionOutcome
from innkeeper.core.administration import AdministrationOutcome
from innkeeper.core.claims import Claimed
from innkeeper.core.control_changes import ControlOutcome
from innkeeper.core.file_changes import FileOutcome
from innkeeper.core.injections import InjectedMessage, Injection
from innkeeper.core.runs import Plan, Run
from innkeeper.core.segments import Fence, Segment
from innkeeper.core.sessions import Lineage, Session, StoredMessage
from innkeeper.core.webhooks import Delivery


@dataclass(frozen=True, slots=True)
class Accepted:
    """The run is on disk. `lineage` and `epoch` are meaningful once it runs.

    `first` is how its log begins, where that is not as asked for, because of injections that had waited for it;
    `interrupts` is the run that was asked to make way, and the worker that executes it.
    """

    run: Run
    lineage: Lineage | None
    epoch: int = 1
    is_new_session: bool = False
    first: Segment | None = None
    interrupts: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Steered:
    """The session was busy: the message was injected into the run under way, which `worker` executes."""

    run_id: str
    injection_id: str
    worker: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """The request has been made before: nothing was written."""

    claimed: Claimed


@dataclass(frozen=True, slots=True)
class Begun:
    """The queued run now runs. `segment` is what was added to its log, where injections had waited for it."""

    lineage: Lineage
    epoch: int
    segment: Segment | None = None


@dataclass(frozen=True, slots=True)
class NotYet:
    """The run waits for others of its session."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A background run that this worker executes from now on."""

    run: Run
    plan: Plan
    begun: Begun


@dataclass(frozen=True, slots=True)
class Cancelling:
    """The run has been asked to end: by `worker`, or, where `fence` is given, by whoever asked, who holds it now."""

    worker: str
    fence: Fence | None = None


@dataclass(frozen=True, slots=True)
class Inherited:
    """Runs that are this worker's to end now, and how many went back into the queue."""

    runs: tuple[tuple[Run, Fence], ...] = ()
    queued: int = 0


@dataclass(frozen=True, slots=True)
class Injected:
    """The message is on disk; `worker` executes the run that is to have it, if one is under way."""

    injection: Injection
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """The messages that the run has now, and what they added to its log."""

    messages: tuple[InjectedMessage, ...] = ()
    segment: Segment | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """`next_run_id` is the run that waits for this session, if one does; `is_awaited` says that a webhook is due."""

    next_run_id: str | None
    is_awaited: bool = False


@dataclass(frozen=True, slots=True)
class Appended:
    messages: tuple[StoredMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class TakenDeliveries:
    """They are this worker's for a while; fewer than were asked for means that no more are due."""

    deliveries: tuple[Delivery, ...]


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


Outcome = (
    Accepted
    | Steered
    | Repeated
    | Begun
    | NotYet
    | Taken
    | Cancelling
    | Inherited
    | Injected
    | Delivered
    | Ended
    | Appended
    | TakenDeliveries
    | Done
    | Stale
    | Missing
    | ActionOutcome
    | FileOutcome
    | ControlOutcome
    | AdministrationOutcome
)
