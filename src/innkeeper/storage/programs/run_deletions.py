"""Deletions of runs as programs: one becomes what a run is that was not to be recorded.

What it cost stays in the ledger, and its turn in the conversation, which is deleted with its session.
"""

from __future__ import annotations

from sqlalchemy import bindparam, delete, literal_column, null, select, update

from innkeeper.core.changes import DeleteRun, Fence
from innkeeper.core.errors import RunConflict
from innkeeper.core.outcomes import Done, Missing
from innkeeper.storage import schema
from innkeeper.storage.statements import Program, Query, Statement

_runs = schema.runs
_LOCK = Statement(
    select(_runs.c.ended_at)
    .where(
        _runs.c.id == bindparam("by_id"),
        _runs.c.organization == bindparam("by_organization"),
        _runs.c.owner == bindparam("by_owner"),
        _runs.c.recorded == literal_column("1"),
    )
    .with_for_update(),
    returns=True,
)
_BLANK = Statement(
    update(_runs)
    .where(_runs.c.id == bindparam("by_id"))
    .values(
        recorded=literal_column("0"),
        input=literal_column("'[]'"),
        output=null(),
        metadata=literal_column("'{}'"),
        opening=null(),
        closing=null(),
        request=null(),
        plan=null(),
    )
)
_DELETE_LOG = Statement(delete(schema.segments).where(schema.segments.c.run_id == bindparam("by_id")))


def delete_run(change: DeleteRun, fence: Fence | None) -> Program:
    whose = {"by_organization": change.owner.organization, "by_owner": change.owner.user}
    rows = yield Query(_LOCK, {"by_id": change.run_id, **whose})
    if not rows:
        return Missing()
    if rows[0][0] is None:
        raise RunConflict(f"Run {change.run_id!r} has not ended; cancel it first.", details={"run_id": change.run_id})
    yield Query(_BLANK, {"by_id": change.run_id})
    yield Query(_DELETE_LOG, {"by_id": change.run_id})
    return Done()
