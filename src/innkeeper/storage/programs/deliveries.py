"""Deliveries as programs: a webhook that is due, from a run's end until its receiver has it."""

from __future__ import annotations

from sqlalchemy import bindparam, insert, literal_column, select, update

from innkeeper.core.changes import Fence, SettleDelivery, TakeDeliveries
from innkeeper.core.outcomes import Done, Missing, TakenDeliveries
from innkeeper.core.times import Instant
from innkeeper.core.webhooks import HOLD, Delivery
from innkeeper.storage import schema
from innkeeper.storage.records import RUN_COLUMNS, run_of
from innkeeper.storage.statements import Program, Query, Statement

_table, _runs = schema.deliveries, schema.runs
_INSERT = Statement(insert(_table))
_DUE = Statement(
    select(_table.c.id, _table.c.url, _table.c.attempt, *RUN_COLUMNS)
    .select_from(_table.join(_runs, _runs.c.id == _table.c.run_id))
    .where(_table.c.status == literal_column("'pending'"), _table.c.due_at <= bindparam("now"))
    .order_by(_table.c.due_at)
    .limit(bindparam("limit"))
    .with_for_update(of=_table, skip_locked=True),
    returns=True,
)
_TAKE = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"))
    .values(due_at=bindparam("new_due_at"), attempt=bindparam("new_attempt"))
)
_SETTLE = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"), _table.c.status == literal_column("'pending'"))
    .values(status=bindparam("new_status"), due_at=bindparam("new_due_at"))
    .returning(_table.c.id),
    returns=True,
)


def due(run_id: str, url: str, now: Instant) -> Query:
    """A run has ended whose webhook wants to hear of it."""
    return Query(
        _INSERT,
        {
            "id": f"msg_{run_id.removeprefix('run_')}",
            "run_id": run_id,
            "url": url,
            "status": "pending",
            "attempt": 0,
            "due_at": now,
            "created_at": now,
        },
    )


def take(change: TakeDeliveries, fence: Fence | None) -> Program:
    rows = yield Query(_DUE, {"now": change.now, "limit": change.limit})
    taken = []
    for id, url, attempt, *row in rows:
        yield Query(_TAKE, {"by_id": id, "new_due_at": change.now + HOLD, "new_attempt": attempt + 1})
        taken.append(Delivery(id, run_of(row), url, attempt + 1))
    return TakenDeliveries(tuple(taken))


def settle(change: SettleDelivery, fence: Fence | None) -> Program:
    status = "delivered" if change.is_delivered else "failed" if change.retry_at is None else "pending"
    due_at = change.now if change.retry_at is None else change.retry_at
    rows = yield Query(_SETTLE, {"by_id": change.id, "new_status": status, "new_due_at": due_at})
    return Done() if rows else Missing()
