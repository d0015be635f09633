"""Programs: each change as a generator that yields queries and is sent their rows.

`PROGRAMS` maps a change's type to its program. A program checks before it writes: a rule that refuses is
raised before the first write of that change.
Invariant: a program may be abandoned and run again from its start; it keeps nothing between runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from innkeeper.core import changes
from innkeeper.storage.programs import conversations, runs, sessions
from innkeeper.storage.statements import Program

PROGRAMS: dict[type[changes.Change], Callable[[Any, changes.Fence | None], Program]] = {
    changes.AcceptRun: runs.accept,
    changes.BeginRun: runs.begin,
    changes.AppendEvents: runs.append_events,
    changes.EndRun: runs.end,
    changes.RecordCredits: runs.record_credits,
    changes.CreateSession: sessions.create,
    changes.UpdateSession: sessions.modify,
    changes.DeleteSession: sessions.remove,
    changes.AppendMessages: conversations.append,
}


def call(batch: Sequence[changes.Change], fence: changes.Fence | None) -> Program:
    """The program of one call of the journal; it ends with a tuple of outcomes."""
    if fence is not None and not _checks_by_itself(batch):
        rows = yield runs.holds(fence)
        if not rows:
            return (changes.Stale(),) * len(batch)
    outcomes = []
    for change in batch:
        outcome = yield from PROGRAMS[type(change)](change, fence)
        outcomes.append(outcome)
    return tuple(outcomes)


def _checks_by_itself(batch: Sequence[changes.Change]) -> bool:
    return len(batch) == 1 and isinstance(batch[0], changes.AppendEvents | changes.EndRun)
