"""Runs as programs: accept, begin, append, end. The database is the judge of whose turn it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, case, func, insert, literal_column, null, select, update

from innkeeper.core.changes import (
    Accepted,
    AcceptRun,
    AppendEvents,
    BeginRun,
    Begun,
    Done,
    Ended,
    EndRun,
    Fence,
    Lineage,
    Missing,
    RecordCredits,
    Segment,
    Stale,
)
from innkeeper.core.errors import RunConflict, TooBusy
from innkeeper.core.runs import Run, RunStatus
from innkeeper.core.times import Instant
from innkeeper.core.usage import CreditRecord
from innkeeper.storage import schema
from innkeeper.storage.programs import conversations, sessions
from innkeeper.storage.records import digest, dumps, messages_body, plain
from innkeeper.storage.statements import Program, Query, Statement

_table = schema.runs
_INSERT = Statement(insert(_table))
_INSERT_SEGMENT = Statement(insert(schema.segments))
_INSERT_CREDITS = Statement(insert(schema.credit_records))
_LINE = Statement(
    select(func.min(_table.c.id), func.count())
    .where(
        _table.c.session_key == bindparam("by_key"),
        _table.c.status.in_(literal_column(f"'{status}'") for status in ("queued", "running", "requires_action")),
        _table.c.ended_at.is_(None),
    ),
    returns=True,
)  # fmt: skip
_NEXT = Statement(
    select(_table.c.id, _table.c.status)
    .where(_table.c.session_key == bindparam("by_key"), _table.c.ended_at.is_(None))
    .order_by(_table.c.turn)
    .limit(literal_column("1")),
    returns=True,
)
_is_mine = (
    (_table.c.id == bindparam("by_id"))
    & (_table.c.worker == bindparam("by_worker"))
    & (_table.c.epoch == bindparam("by_epoch"))
    & _table.c.ended_at.is_(None)
)
_HOLDS = Statement(select(_table.c.last_seq).where(_is_mine).with_for_update(), returns=True)
_EXTEND = Statement(
    update(_table)
    .where(_is_mine, _table.c.last_seq == bindparam("old_last_seq"))
    .values(last_seq=bindparam("new_last_seq"))
    .returning(_table.c.id),
    returns=True,
)
_HAS_ENDED = Statement(
    select(_table.c.id).where(
        _table.c.id == bindparam("by_id"),
        _table.c.worker == bindparam("by_worker"),
        _table.c.epoch == bindparam("by_epoch"),
        _table.c.status == bindparam("by_status"),
        _table.c.last_seq == bindparam("by_last_seq"),
        _table.c.ended_at == bindparam("by_ended_at"),
    ),
    returns=True,
)
_BEGIN = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"), _table.c.status == literal_column("'queued'"))
    .values(
        status=literal_column("'running'"),
        worker=bindparam("new_worker"),
        epoch=_table.c.epoch + literal_column("1"),
        started_at=bindparam("new_started_at"),
        started_sequence=bindparam("new_started_sequence"),
    )
    .returning(_table.c.epoch),
    returns=True,
)
_others = _table.alias("others")
_END = Statement(
    update(_table)
    .where(_is_mine)
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "status",
                "output",
                "error",
                "finish_reason",
                "input_tokens",
                "output_tokens",
                "model",
                "steps",
                "last_seq",
                "ended_at",
                "ended_sequence",
                "closing",
                "closing_seq",
            )
        }
    )
    .returning(
        _table.c.recorded,
        _table.c.organization,
        _table.c.owner,
        _table.c.user_id,
        _table.c.agent_name,
        select(case((_others.c.status == literal_column("'queued'"), _others.c.id)))
        .where(
            _others.c.session_key == bindparam("by_key"),
            _others.c.ended_at.is_(None),
            _others.c.id != bindparam("by_id"),
        )
        .order_by(_others.c.turn)
        .limit(literal_column("1"))
        .scalar_subquery(),
    ),
    returns=True,
)
_BLANK = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"))
    .values(
        input=literal_column("'[]'"), output=null(), metadata=literal_column("'{}'"), opening=null(), closing=null()
    )
)
_OWNER_OF = Statement(
    select(_table.c.recorded, _table.c.organization, _table.c.owner, _table.c.user_id, _table.c.agent_name).where(
        _table.c.id == bindparam("by_id")
    ),
    returns=True,
)

Cells = dict[str, Any]


def accept(change: AcceptRun, fence: Fence | None) -> Program:
    run, cell, is_new = change.run, None, True
    waiting = 0
    if change.names_session and change.recorded:
        rows = yield sessions.find(change.new_session, names_user=change.names_user)
        if rows:
            cell, is_new = sessions.cells(rows[0]), False
            ((first, waiting),) = yield Query(_LINE, {"by_key": cell["key"]})
            _check_line(change, first, waiting)
    if cell is None:
        cell = sessions.fresh(change.new_session, recorded=change.recorded)
    cell["turns"] += 1
    cell["updated_at"] = run.created_at
    cell["agent_name"] = run.agent_name
    status = RunStatus.QUEUED if waiting else RunStatus.RUNNING
    lineage = None
    if not waiting:
        yield from conversations.continue_with(cell, change.transcript, change.history, run.created_at, run.id)
        lineage = yield from conversations.lineage_of(cell)
        cell["sequence"] += 1
    yield Query(sessions.INSERT, cell) if is_new else sessions.advance(cell)
    yield Query(_INSERT, _run_cells(change, cell, status))
    return Accepted(_placed(run, cell, status), lineage, 1, is_new)


def _check_line(change: AcceptRun, first: str | None, waiting: int) -> None:
    if waiting and change.when_busy == "reject":
        raise RunConflict(
            f"Session {change.run.session_id!r} is busy with run {first}. Wait for it, cancel it, or send"
            " when_busy: queue.",
            details={"run_id": first},
        )
    if waiting > change.max_queue:
        raise TooBusy(
            f"Session {change.run.session_id!r} has {waiting - 1} turns waiting already; try again later.",
            retry_after=5,
        )


def _placed(run: Run, cell: Mapping[str, Any], status: RunStatus) -> Run:
    """The run as it was stored, which is as it was asked for in most sessions: the first turn of a new one."""
    is_first = run.turn == cell["turns"] == 1 and run.session_key == cell["key"] and status is RunStatus.RUNNING
    if is_first and run.last_seq == 1 and run.started_at == run.created_at:
        return run
    return Run(
        id=run.id,
        owner=run.owner,
        user_id=cell["user_id"],
        session_key=cell["key"],
        session_id=cell["id"],
        agent_name=run.agent_name,
        endpoint=run.endpoint,
        status=status,
        turn=cell["turns"],
        created_at=run.created_at,
        input=run.input,
        metadata=run.metadata,
        background=run.background,
        started_at=run.created_at if status is RunStatus.RUNNING else None,
        last_seq=1,
    )


def _run_cells(change: AcceptRun, cell: Mapping[str, Any], status: RunStatus) -> Cells:
    run = change.run
    return {
        "id": run.id,
        "organization": run.owner.organization,
        "owner": run.owner.user,
        "user_id": cell["user_id"],
        "session_key": cell["key"],
        "session_id": cell["id"],
        "agent_name": run.agent_name,
        "endpoint": run.endpoint,
        "status": status.value,
        "turn": cell["turns"],
        "background": int(run.background),
        "attempt": run.attempt,
        "worker": change.worker,
        "epoch": 1,
        "recorded": int(change.recorded),
        "input": messages_body(run.input),
        "output": None,
        "error": None,
        "finish_reason": None,
        "input_tokens": None,
        "output_tokens": None,
        "model": None,
        "steps": 0,
        "last_seq": change.first.last_seq,
        "metadata": dumps(run.metadata),
        "created_at": run.created_at,
        "started_at": run.created_at if status is RunStatus.RUNNING else None,
        "ended_at": None,
        "started_sequence": cell["sequence"] if status is RunStatus.RUNNING else None,
        "ended_sequence": None,
        "opening": change.first.data,
        "closing": None,
        "closing_seq": None,
    }


def _segment_query(run_id: str, segment: Segment, now: Instant) -> Query:
    return Query(
        _INSERT_SEGMENT,
        {
            "run_id": run_id,
            "first_seq": segment.first_seq,
            "last_seq": segment.last_seq,
            "data": segment.data,
            "digest": digest(segment.data),
            "created_at": now,
        },
    )


def begin(change: BeginRun, fence: Fence | None) -> Program:
    rows = yield Query(sessions.LOCK, {"by_key": change.session_key})
    if not rows:
        return Missing()
    cell = sessions.cells(rows[0])
    line = yield Query(_NEXT, {"by_key": change.session_key})
    if not line or line[0][0] != change.run_id:
        return Missing()
    cell["sequence"] += 1
    began = yield Query(
        _BEGIN,
        {
            "by_id": change.run_id,
            "new_worker": change.worker,
            "new_started_at": change.now,
            "new_started_sequence": cell["sequence"],
        },
    )
    if not began:
        return Missing()
    yield from conversations.continue_with(cell, change.transcript, change.history, change.now, change.run_id)
    lineage: Lineage = yield from conversations.lineage_of(cell)
    yield sessions.advance(cell)
    return Begun(lineage, began[0][0])


def _mine(fence: Fence) -> Cells:
    return {"by_id": fence.run_id, "by_worker": fence.worker, "by_epoch": fence.epoch}


def holds(fence: Fence) -> Query:
    """Whether the fence is still that of a run which has not ended: one row if so."""
    return Query(_HOLDS, _mine(fence))


def append_events(change: AppendEvents, fence: Fence | None) -> Program:
    """Done again, after an answer that was lost, it changes nothing."""
    assert fence is not None, "a run's log is written by its owner only"
    segment = change.segment
    moved = {"old_last_seq": segment.first_seq - 1, "new_last_seq": segment.last_seq}
    rows = yield Query(_EXTEND, {**_mine(fence), **moved})
    if rows:
        yield _segment_query(fence.run_id, segment, change.now)
        return Done()
    rows = yield holds(fence)
    if not rows:
        return Stale()
    if rows[0][0] < segment.last_seq:
        raise RunConflict(f"The log of run {fence.run_id!r} ends at {rows[0][0]}; it may not have gaps.")
    return Done()


def end(change: EndRun, fence: Fence | None) -> Program:
    """Done again, after an answer that was lost, it changes nothing and answers the same."""
    assert fence is not None, "a run is ended by its owner only"
    locked = yield Query(sessions.LOCK_COUNTED, {"by_key": change.session_key})
    cell = sessions.counted(change.session_key, locked[0]) if locked else {"sequence": 0}
    cell["sequence"] += 1
    rows = yield Query(_END, _end_cells(change, fence, cell["sequence"]))
    if not rows:
        return (yield from _ended_before(change, fence))
    recorded, *owner, next_run_id = rows[0]
    if recorded:
        yield from _end_session(change, cell)
    else:
        yield from sessions.forget(change.session_key)
        yield Query(_BLANK, {"by_id": change.run_id})
    for record in change.records:
        yield _credit_query(change.run_id, owner, record)
    return Ended(next_run_id)


def _next_in_line(session_key: str) -> Program:
    line = yield Query(_NEXT, {"by_key": session_key})
    return Ended(line[0][0] if line and line[0][1] == RunStatus.QUEUED else None)


def _ended_before(change: EndRun, fence: Fence) -> Program:
    told = {"by_status": change.status, "by_last_seq": change.segment.last_seq, "by_ended_at": change.now}
    rows = yield Query(_HAS_ENDED, {**_mine(fence), **told})
    if not rows:
        return Stale()
    return (yield from _next_in_line(change.session_key))


def _end_cells(change: EndRun, fence: Fence, sequence: int) -> Cells:
    usage, error = change.usage, change.error
    return {
        "by_id": fence.run_id,
        "by_worker": fence.worker,
        "by_epoch": fence.epoch,
        "by_key": change.session_key,
        "new_status": change.status,
        "new_output": dumps(change.output),
        "new_error": None if error is None else dumps({"code": error.code, "message": error.message}),
        "new_finish_reason": change.finish_reason,
        "new_input_tokens": None if usage is None else usage.input_tokens,
        "new_output_tokens": None if usage is None else usage.output_tokens,
        "new_model": None if usage is None or usage.model is None else plain(usage.model),
        "new_steps": change.steps,
        "new_last_seq": change.segment.last_seq,
        "new_ended_at": change.now,
        "new_ended_sequence": sequence,
        "new_closing": change.segment.data,
        "new_closing_seq": change.segment.first_seq,
    }


def _end_session(change: EndRun, cell: Cells) -> Program:
    yield from conversations.place(cell, change.messages, change.now, change.run_id, change.visible)
    if change.usage is not None:
        cell["input_tokens"] += change.usage.input_tokens
        cell["output_tokens"] += change.usage.output_tokens
    yield sessions.count(cell, change.now)


def _credit_query(run_id: str, owner: list[str], record: CreditRecord) -> Query:
    organization, user, user_id, agent_name = owner
    return Query(
        _INSERT_CREDITS,
        {
            "id": record.id,
            "organization": organization,
            "owner": user,
            "user_id": user_id,
            "run_id": run_id,
            "agent_name": agent_name,
            "credits": str(record.credits),
            "reason": plain(record.reason),
            "metadata": dumps(dict(record.metadata)),
            "created_at": record.recorded_at,
        },
    )


def record_credits(change: RecordCredits, fence: Fence | None) -> Program:
    rows = yield Query(_OWNER_OF, {"by_id": change.run_id})
    if not rows:
        return Missing()
    _, *owner = rows[0]
    for record in change.records:
        yield _credit_query(change.run_id, owner, record)
    return Done()
