"""Workers as programs: who executes which runs, asking for their end, and taking over those of the dead.

Whether a worker is alive is judged by the database's clock alone.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, bindparam, case, delete, insert, literal_column, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from innkeeper.core.actions import ActionStatus
from innkeeper.core.changes import Fence, KeepWorker, ReleaseRun, RequestCancel, RetireWorkers, TakeDead
from innkeeper.core.outcomes import Cancelling, Done, Inherited, Missing, Stale
from innkeeper.core.runs import RunStatus
from innkeeper.storage import schema
from innkeeper.storage.programs import actions
from innkeeper.storage.programs.logs import is_mine, mine
from innkeeper.storage.programs.runs import NOBODY
from innkeeper.storage.records import RUN_COLUMNS, run_of
from innkeeper.storage.statements import Program, Query, Statement, unindexed


class database_instant(FunctionElement[int]):  # noqa: N801 - a function of SQL
    """Microseconds since the epoch, by the database's clock."""

    type = BigInteger()
    inherit_cache = True


@compiles(database_instant, "postgresql")
def _on_postgres(element: Any, compiler: Any, **options: Any) -> str:
    return "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


@compiles(database_instant, "sqlite")
def _on_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"


_table, _workers = schema.runs, schema.workers
_is_queued_for_anybody = (
    (_table.c.status == literal_column("'queued'"))
    & (_table.c.background == literal_column("1"))
    & (_table.c.worker == literal_column(f"'{NOBODY}'"))
)
_is_paused = (_table.c.status == literal_column("'requires_action'")) & (
    _table.c.worker == literal_column(f"'{NOBODY}'")
)
"""Whose end was asked for is somebody's, who may die before it is written."""
_KEEP = Statement(
    update(_workers)
    .where(_workers.c.id == bindparam("by_id"))
    .values(seen_at=database_instant())
    .returning(_workers.c.id),
    returns=True,
)
_ENTER = Statement(
    insert(_workers).values(id=bindparam("id"), process=bindparam("process"), seen_at=database_instant())
)
_RETIRE = Statement(delete(_workers).where(_workers.c.id == bindparam("by_id")))
_is_missed = _workers.c.seen_at < database_instant() - bindparam("patience", type_=BigInteger)
_STRIKE_OUT = Statement(delete(_workers).where(_workers.c.id != bindparam("not_worker"), _is_missed))
_FIND = Statement(
    select(
        _table.c.worker,
        _table.c.ended_at,
        case((_is_queued_for_anybody | _is_paused, literal_column("1")), else_=literal_column("0")),
        _table.c.status,
    )
    .where(
        _table.c.id == bindparam("by_id"),
        _table.c.organization == bindparam("by_organization"),
        _table.c.owner == bindparam("by_owner"),
    )
    .with_for_update(),
    returns=True,
)
_ASK = Statement(update(_table).where(_table.c.id == bindparam("by_id")).values(cancel_requested=literal_column("1")))
_TAKE = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"))
    .values(worker=bindparam("new_worker"), epoch=_table.c.epoch + literal_column("1"))
    .returning(_table.c.epoch),
    returns=True,
)
_requeued = {
    "status": literal_column("'queued'"),
    "worker": literal_column(f"'{NOBODY}'"),
    "epoch": _table.c.epoch + literal_column("1"),
}
_REQUEUE = Statement(update(_table).where(_table.c.id == bindparam("by_id")).values(_requeued))
_RELEASE = Statement(
    update(_table)
    .where(is_mine, _table.c.background == literal_column("1"), _table.c.status == literal_column("'running'"))
    .values(_requeued)
    .returning(_table.c.id),
    returns=True,
)
_DEAD = Statement(
    select(*RUN_COLUMNS)
    .select_from(_table.outerjoin(_workers, _workers.c.id == _table.c.worker))
    .where(
        _table.c.ended_at.is_(None),
        ~_is_queued_for_anybody,
        ~_is_paused,
        _table.c.worker != bindparam("not_worker"),
        _workers.c.id.is_(None) | _is_missed,
    )
    .order_by(unindexed(_table.c.id))
    .limit(bindparam("limit"))
    .with_for_update(of=_table, skip_locked=True),
    returns=True,
)

_ALIVE = Statement(select(_workers.c.id).where(~_is_missed), returns=True)
_WORKER_AT = [column.name for column in RUN_COLUMNS].index("worker")


def keep(change: KeepWorker, fence: Fence | None) -> Program:
    rows = yield Query(_KEEP, {"by_id": change.worker})
    if not rows:
        yield Query(_ENTER, {"id": change.worker, "process": change.process})
    return Done()


def retire(change: RetireWorkers, fence: Fence | None) -> Program:
    for worker in change.workers:
        yield Query(_RETIRE, {"by_id": worker})
    return Done()


def cancel(change: RequestCancel, fence: Fence | None) -> Program:
    named = {
        "by_id": change.run_id,
        "by_organization": change.owner.organization,
        "by_owner": change.owner.user,
    }
    rows = yield Query(_FIND, named)
    if not rows:
        return Missing()
    ((worker, ended_at, is_free, status),) = rows
    if ended_at is not None:
        return Done()
    yield Query(_ASK, {"by_id": change.run_id})
    if not is_free:
        return Cancelling(worker)
    if status == RunStatus.REQUIRES_ACTION:
        yield from actions.close(change.run_id, ActionStatus.CANCELLED, change.now)
    ((epoch,),) = yield Query(_TAKE, {"by_id": change.run_id, "new_worker": change.worker})
    return Cancelling(change.worker, Fence(change.run_id, change.worker, epoch))


def release(change: ReleaseRun, fence: Fence | None) -> Program:
    assert fence is not None, "a run is released by its owner only"
    rows = yield Query(_RELEASE, mine(fence))
    return Done() if rows else Stale()


def take_dead(change: TakeDead, fence: Fence | None) -> Program:
    missed = {"not_worker": change.worker, "patience": round(change.patience * 1_000_000)}
    rows = yield Query(_DEAD, {**missed, "limit": change.limit})
    # A row that another has taken over between this look and its lock is told by its new worker, who is alive.
    alive = {worker for (worker,) in (yield Query(_ALIVE, missed))} if rows else set()
    inherited, queued = [], 0
    for row in rows:
        if row[_WORKER_AT] in alive:
            continue
        run = run_of(row)
        if run.background and not run.is_cancelling and run.attempt < change.max_attempts:
            yield Query(_REQUEUE, {"by_id": run.id})
            queued += 1
            continue
        ((epoch,),) = yield Query(_TAKE, {"by_id": run.id, "new_worker": change.worker})
        inherited.append((run, Fence(run.id, change.worker, epoch)))
    yield Query(_STRIKE_OUT, missed)
    return Inherited(tuple(inherited), queued)
