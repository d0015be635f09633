"""Queues as programs: which waiting run begins, and what beginning it means for its session.

A run waits for those of its session that were accepted before it. One that waits for a client begins where that
client is; one in the background wherever somebody takes it, at most one at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, case, exists, literal_column, select, update

from innkeeper.core.changes import BeginRun, Fence, Lineage, Segment, TakeQueued
from innkeeper.core.outcomes import Begun, Missing, NotYet, Taken
from innkeeper.core.runs import Plan, RunStatus
from innkeeper.core.times import Instant
from innkeeper.core.transcripts import HistoryMode, Transcript, sort
from innkeeper.storage import schema
from innkeeper.storage.programs import conversations, injections, logs, session_events, sessions
from innkeeper.storage.programs.runs import NEXT, NOBODY
from innkeeper.storage.records import RUN_COLUMNS, plan_of, run_of
from innkeeper.storage.statements import Program, Query, Statement

_table = schema.runs
_earlier = _table.alias("earlier")
_is_again = case((_table.c.started_at.is_(None), literal_column("0")), else_=literal_column("1"))
_BEGIN = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"), _table.c.status == literal_column("'queued'"))
    .values(
        status=literal_column("'running'"),
        worker=bindparam("new_worker"),
        epoch=_table.c.epoch + literal_column("1"),
        attempt=_table.c.attempt
        + case((_table.c.started_at.is_(None), literal_column("0")), else_=literal_column("1")),
        started_at=bindparam("new_started_at"),
        started_sequence=bindparam("new_started_sequence"),
    )
    .returning(_table.c.epoch, _table.c.attempt, _table.c.last_seq),
    returns=True,
)
_BEFORE = Statement(
    select(
        _table.c.started_at,
        _table.c.started_sequence,
        _table.c.agent_name,
        _table.c.endpoint,
        _table.c.attempt,
        _table.c.plan,
    ).where(_table.c.id == bindparam("by_id")),
    returns=True,
)
_OLDEST = Statement(
    select(*RUN_COLUMNS, _table.c.plan)
    .where(
        _table.c.status == literal_column("'queued'"),
        _table.c.background == literal_column("1"),
        _table.c.worker == literal_column(f"'{NOBODY}'"),
        ~exists().where(
            _earlier.c.session_key == _table.c.session_key,
            _earlier.c.ended_at.is_(None),
            _earlier.c.turn < _table.c.turn,
        ),
    )
    .order_by(_table.c.id)
    .limit(literal_column("1"))
    .with_for_update(of=_table, skip_locked=True),
    returns=True,
)


def begin(change: BeginRun, fence: Fence | None) -> Program:
    rows = yield Query(sessions.LOCK, {"by_key": change.session_key})
    if not rows:
        return Missing()
    cell = sessions.cells(rows[0])
    line = yield Query(NEXT, {"by_key": change.session_key})
    if not line:
        return Missing()
    if line[0][0] != change.run_id:
        return NotYet()
    return (yield from _begin(cell, change.run_id, change.worker, change.now, change.transcript, change.history))


def take(change: TakeQueued, fence: Fence | None) -> Program:
    rows = yield Query(_OLDEST, {})
    if not rows:
        return Missing()
    *row, plan_text = rows[0]
    run, plan = run_of(row), Plan() if plan_text is None else plan_of(plan_text)
    locked = yield Query(sessions.LOCK, {"by_key": run.session_key})
    if not locked:
        return Missing()
    cell = sessions.cells(locked[0])
    begun = yield from _begin(cell, run.id, change.worker, change.now, sort(run.input), plan.history)
    if not isinstance(begun, Begun):
        return begun
    taken = replace(
        run,
        status=RunStatus.RUNNING,
        started_at=run.started_at or change.now,
        attempt=run.attempt + (run.started_at is not None),
        last_seq=run.last_seq if begun.segment is None else begun.segment.last_seq,
    )
    return Taken(taken, plan, begun)


def _begin(
    cell: dict[str, Any], run_id: str, worker: str, now: Instant, transcript: Transcript, history: HistoryMode
) -> Program:
    rows = yield Query(_BEFORE, {"by_id": run_id})
    ((started_at, started_sequence, agent_name, endpoint, attempt, plan),) = rows
    follows = None if plan is None else plan_of(plan).follows
    is_first = started_at is None
    place = cell["sequence"] + 1
    began = yield Query(
        _BEGIN,
        {
            "by_id": run_id,
            "new_worker": worker,
            "new_started_at": now if is_first else started_at,
            "new_started_sequence": place if is_first else started_sequence,
        },
    )
    if not began:
        return Missing()
    ((epoch, _, last_seq),) = began
    began_now = session_events.run_started(run_id, agent_name, endpoint, now)
    note = began_now if is_first else session_events.run_resumed(run_id, agent_name, attempt + 1, now)
    yield from session_events.log(cell, (note,))
    rows = yield injections.waiting_for(cell, agent_name, now)
    segment = None
    if is_first:
        segment = yield from _join(
            cell, Fence(run_id, worker, epoch), last_seq, rows, transcript, history, now, follows
        )
    else:
        yield from injections.adopt(rows, run_id, cell["key"])
    lineage: Lineage = yield from conversations.lineage_of(cell)
    yield sessions.advance(cell)
    return Begun(lineage, epoch, segment)


def _join(
    cell: dict[str, Any],
    fence: Fence,
    last_seq: int,
    rows: Any,
    transcript: Transcript,
    history: HistoryMode,
    now: Instant,
    follows: str | None,
) -> Program:
    """What was injected before the run and what was said to it join the history; returns what its log gains."""
    injected, segment = [], None
    if rows:
        injected, payloads = yield from injections.join(rows, fence.run_id, cell["key"], last_seq)
        segment = Segment(last_seq + 1, len(payloads), b"\n".join(payloads))
        yield from logs.extend(fence, segment, now)
        yield from session_events.log(cell, session_events.noted(fence.run_id, payloads, last_seq + 1, now))
    yield from conversations.continue_with(cell, transcript, history, now, fence.run_id, injected, follows)
    return segment
