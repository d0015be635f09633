"""Action changes: a run is paused until people have answered, and goes on. Part of the union in `core.changes`."""

from __future__ import annotations

from dataclasses import dataclass

from innkeeper.core.actions import Action, Answer, Continuation
from innkeeper.core.claims import Claim
from innkeeper.core.identity import Owner
from innkeeper.core.runs import Plan, Run
from innkeeper.core.segments import Fence, Segment
from innkeeper.core.session_events import Note
from innkeeper.core.sessions import Lineage
from innkeeper.core.times import Instant
from innkeeper.core.usage import CreditRecord


@dataclass(frozen=True, slots=True)
class PauseRun:
    """The run waits for answers to `actions`: it is nobody's from now on. Its log ends with `segment` for now.

    `state` is what its runtime goes on with, and `plan` how its request was worded, for whoever takes it up.
    """

    run_id: str
    session_key: str
    segment: Segment
    now: Instant
    expires_at: Instant
    actions: tuple[Action, ...]
    state: str
    plan: Plan
    notes: tuple[Note, ...] = ()
    records: tuple[CreditRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class ResumeRun:
    """Answer actions of a paused run; once all are answered, `worker` executes it from then on.

    Answers to what is not pending are refused with `RunConflict`, unknown ones with `ActionNotFound`; what
    `check_answer` refuses is refused. `decided_by` is who answers. None of them is kept where one is refused.
    """

    run_id: str
    owner: Owner
    answers: tuple[Answer, ...]
    decided_by: str
    worker: str
    now: Instant
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class TakeExpired:
    """Take over up to `limit` paused runs that nobody has answered in time, to be ended. Answered with `Expired`."""

    worker: str
    now: Instant
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Paused:
    """The run is paused, and on disk; `is_cancelling` says that somebody has asked for its end before."""

    is_cancelling: bool = False


@dataclass(frozen=True, slots=True)
class Waits:
    """The answers are kept; the run waits for `left` more."""

    run: Run
    left: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run is this worker's, from where it was paused; `segment` is what that has added to its log."""

    run: Run
    plan: Plan
    fence: Fence
    lineage: Lineage
    segment: Segment
    continuation: Continuation


@dataclass(frozen=True, slots=True)
class Expired:
    """Runs that are this worker's to end now."""

    runs: tuple[tuple[Run, Fence], ...] = ()


ActionChange = PauseRun | ResumeRun | TakeExpired
ActionOutcome = Paused | Waits | Resumed | Expired
