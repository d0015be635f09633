"""How runs end, as programs: once, with all that is due then. How they begin is told in `programs.runs`."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import bindparam, case, insert, literal_column, null, select, update

from innkeeper.core.changes import EndRun, Fence, RecordCredits
from innkeeper.core.events import shown_usage
from innkeeper.core.outcomes import Done, Ended, Missing, Stale
from innkeeper.core.runs import RunStatus
from innkeeper.core.session_events import Note
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.programs import conversations, credits, deliveries, injections, session_events, sessions
from innkeeper.storage.programs.logs import is_mine, mine
from innkeeper.storage.programs.runs import NEXT, Cells
from innkeeper.storage.records import charged_of, dumps, plain, pricing_of
from innkeeper.storage.statements import Program, Query, Statement

_table = schema.runs
_TO_LOG = Statement(insert(schema.outbox))
_HAS_ENDED = Statement(
    select(_table.c.webhook).where(
        _table.c.id == bindparam("by_id"),
        _table.c.worker == bindparam("by_worker"),
        _table.c.epoch == bindparam("by_epoch"),
        _table.c.status == bindparam("by_status"),
        _table.c.last_seq == bindparam("by_last_seq"),
        _table.c.ended_at == bindparam("by_ended_at"),
    ),
    returns=True,
)
_others = _table.alias("others")
_END = Statement(
    update(_table)
    .where(is_mine)
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
        _table.c.terms,
        _table.c.reserved,
        _table.c.webhook,
        _table.c.injections,
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
        input=literal_column("'[]'"),
        output=null(),
        metadata=literal_column("'{}'"),
        opening=null(),
        closing=null(),
        request=null(),
        plan=null(),
    )
)
_OWNER_OF = Statement(
    select(
        _table.c.organization,
        _table.c.owner,
        _table.c.user_id,
        _table.c.agent_name,
        _table.c.terms,
        _table.c.reserved,
        _table.c.ended_at,
    )
    .where(_table.c.id == bindparam("by_id"))
    .with_for_update(),
    returns=True,
)
"""Held, so that what is tracked while the run ends is charged with its end or behind it."""


def end(change: EndRun, fence: Fence | None) -> Program:
    """Done again, after an answer that was lost, it changes nothing and answers the same."""
    assert fence is not None, "a run is ended by its owner only"
    locked = yield Query(sessions.LOCK_COUNTED, {"by_key": change.session_key})
    cell = sessions.counted(change.session_key, locked[0]) if locked else {"sequence": 0, "recorded": 0}
    rows = yield Query(_END, _end_cells(change, fence, cell["sequence"] + len(change.notes) + 1))
    if not rows:
        return (yield from _ended_before(change, fence))
    recorded, *owner, terms, reserved, webhook, injected, next_run_id = rows[0]
    if injected:
        yield injections.defer(change.run_id, change.session_key if recorded else None)
    if webhook is not None:
        yield deliveries.due(change.run_id, webhook, change.now)
    if recorded:
        yield from session_events.log(cell, (*change.notes, _ended_note(change, owner[-1])))
        yield from _end_session(change, cell)
    else:
        yield from sessions.forget(change.session_key)
        yield Query(_BLANK, {"by_id": change.run_id})
    for record in change.records:
        yield credits.record(change.run_id, owner, record)
    if change.models:
        yield from credits.note_usage(change.run_id, owner, change.models, change.now)
    if reserved is not None:
        yield from credits.settle(change, owner, reserved, charged_of(terms))
    yield Query(_TO_LOG, {"topic": "log", "run_id": change.run_id})
    return Ended(next_run_id, webhook is not None)


def _ended_note(change: EndRun, agent_name: str) -> Note:
    error, usage = change.error, change.usage
    told: dict[str, object] = {
        "status": change.status,
        "error": None if error is None else {"code": error.code, "message": error.message},
        "usage": shown_usage(usage),
        "steps": change.steps,
    }
    if change.timings is not None:
        told["timings"] = change.timings
    return session_events.run_ended(change.run_id, agent_name, told, change.now)


def _ended_before(change: EndRun, fence: Fence) -> Program:
    told = {"by_status": change.status, "by_last_seq": change.segment.last_seq, "by_ended_at": change.now}
    rows = yield Query(_HAS_ENDED, {**mine(fence), **told})
    if not rows:
        return Stale()
    line = yield Query(NEXT, {"by_key": change.session_key})
    return Ended(line[0][0] if line and line[0][1] == RunStatus.QUEUED else None, rows[0][0] is not None)


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


def record_credits(change: RecordCredits, fence: Fence | None) -> Program:
    rows = yield Query(_OWNER_OF, {"by_id": change.run_id})
    if not rows:
        return Missing()
    *owner, terms, reserved, ended_at = rows[0]
    if reserved is not None and ended_at is not None:
        room = yield from credits.room_of(change.run_id, pricing_of(terms))
        for record in change.records:
            users, now = charged_of(terms), Instant(record.recorded_at)
            due = record.credits if room is None else min(record.credits, max(room, Decimal(0)))
            yield from credits.take(owner[0], users, change.run_id, record.id, due, now)
            room = None if room is None else room - record.credits
    for record in change.records:
        yield credits.record(change.run_id, owner, record)
    return Done()
