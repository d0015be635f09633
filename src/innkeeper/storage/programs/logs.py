"""A run's log as programs: it grows by segments, without a gap, and only by who owns the run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, insert, select, update

from innkeeper.core.changes import AppendEvents, Fence, Segment
from innkeeper.core.errors import RunConflict
from innkeeper.core.outcomes import Done, Stale
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.programs import credits, session_events
from innkeeper.storage.records import digest
from innkeeper.storage.statements import Program, Query, Statement

_table = schema.runs
_INSERT_SEGMENT = Statement(insert(schema.segments))
is_mine = (
    (_table.c.id == bindparam("by_id"))
    & (_table.c.worker == bindparam("by_worker"))
    & (_table.c.epoch == bindparam("by_epoch"))
    & _table.c.ended_at.is_(None)
)
_HOLDS = Statement(select(_table.c.last_seq).where(is_mine).with_for_update(), returns=True)
_EXTEND = Statement(
    update(_table)
    .where(is_mine, _table.c.last_seq == bindparam("old_last_seq"))
    .values(last_seq=bindparam("new_last_seq"))
    .returning(_table.c.organization, _table.c.owner, _table.c.user_id, _table.c.agent_name),
    returns=True,
)


def mine(fence: Fence) -> dict[str, Any]:
    """The values that `is_mine` compares with."""
    return {"by_id": fence.run_id, "by_worker": fence.worker, "by_epoch": fence.epoch}


def holds(fence: Fence) -> Query:
    """Whether the fence is still that of a run which has not ended: one row, with its `last_seq`, if so."""
    return Query(_HOLDS, mine(fence))


def extend(fence: Fence, segment: Segment, now: Instant) -> Program:
    """Add a segment where the log ends right before it, and tell whose run it is; nothing if it does not."""
    moved = {"old_last_seq": segment.first_seq - 1, "new_last_seq": segment.last_seq}
    rows = yield Query(_EXTEND, {**mine(fence), **moved})
    if rows and segment.count:
        yield Query(
            _INSERT_SEGMENT,
            {
                "run_id": fence.run_id,
                "first_seq": segment.first_seq,
                "last_seq": segment.last_seq,
                "data": segment.data,
                "digest": digest(segment.data),
                "created_at": now,
            },
        )
    return rows[0] if rows else None


def append(change: AppendEvents, fence: Fence | None) -> Program:
    """Done again, after an answer that was lost, it changes nothing."""
    assert fence is not None, "a run's log is written by its owner only"
    segment, cell = change.segment, None
    if change.notes:
        cell = yield from session_events.lock(change.session_key)
    owner = yield from extend(fence, segment, change.now)
    if owner is not None:
        for record in change.records:
            yield credits.record(fence.run_id, owner, record)
        if cell is not None:
            yield from session_events.append(cell, change.notes)
        return Done()
    rows = yield holds(fence)
    if not rows:
        return Stale()
    if rows[0][0] < segment.last_seq:
        raise RunConflict(f"The log of run {fence.run_id!r} ends at {rows[0][0]}; it may not have gaps.")
    return Done()
