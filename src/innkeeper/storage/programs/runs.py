"""Runs as programs: how they are accepted. The database is the judge of whose turn it is; `run_endings` ends them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, func, insert, literal_column, select, update

from innkeeper.core.changes import AcceptInjection, AcceptRun, Fence, Segment
from innkeeper.core.credits import ORGANIZATION, Terms
from innkeeper.core.errors import RunConflict, TooBusy
from innkeeper.core.outcomes import Accepted, Missing, Steered
from innkeeper.core.runs import Run, RunStatus
from innkeeper.storage import schema
from innkeeper.storage.programs import (
    claims,
    conversations,
    credits,
    engines,
    followed_runs,
    injections,
    session_events,
    sessions,
)
from innkeeper.storage.records import dumps, messages_body, plan_text, terms_text
from innkeeper.storage.statements import Program, Query, Statement

_table = schema.runs
_INSERT = Statement(insert(_table))
_LINE = Statement(
    select(func.min(_table.c.id), func.count())
    .where(
        _table.c.session_key == bindparam("by_key"),
        _table.c.status.in_(literal_column(f"'{status}'") for status in ("queued", "running", "requires_action")),
        _table.c.ended_at.is_(None),
    ),
    returns=True,
)  # fmt: skip
NEXT = Statement(
    select(_table.c.id, _table.c.status)
    .where(_table.c.session_key == bindparam("by_key"), _table.c.ended_at.is_(None))
    .order_by(_table.c.turn)
    .limit(literal_column("1")),
    returns=True,
)
_UNDER_WAY = Statement(
    select(_table.c.id, _table.c.worker, _table.c.agent_name)
    .where(
        _table.c.session_key == bindparam("by_key"),
        _table.c.status.in_((literal_column("'running'"), literal_column("'requires_action'"))),
        _table.c.ended_at.is_(None),
    )
    .with_for_update(),
    returns=True,
)
_ASK_TO_END = Statement(
    update(_table).where(_table.c.id == bindparam("by_id")).values(cancel_requested=literal_column("1"))
)

Cells = dict[str, Any]

NOBODY = ""
"""The worker of a background run that none has taken."""


def accept(change: AcceptRun, fence: Fence | None) -> Program:
    run, is_new = change.run, True
    if change.claim is not None:
        known = yield from claims.find(run.owner, change.claim, run.created_at)
        if known is not None:
            return known
    waiting, interrupts = 0, None
    cell = yield from _named_session(change)
    if cell is not None:
        is_new = False
        ((first, waiting),) = yield Query(_LINE, {"by_key": cell["key"]})
        if waiting and change.when_busy == "steer":
            steered = yield from _steer(change, cell["key"])
            if steered is not None:
                return steered
        if not change.only_joins:
            _check_line(change, first, waiting)
            if waiting and change.when_busy == "queue" and not run.background:
                yield from _check_pause(run, cell["key"])
    if change.only_joins:
        return Missing()
    if cell is None:
        cell = sessions.fresh(change.new_session, recorded=change.run.recorded)
    reserved = None
    if change.terms is not None:
        is_callers = cell["user_id"] == run.user_id
        users = change.terms.balances if is_callers else (ORGANIZATION, cell["user_id"])
        reserved = yield from credits.reserve(run.owner.organization, change.terms, users)
    if waiting and change.when_busy == "interrupt":
        interrupts = yield from _make_way(cell["key"])
    if change.engine_id is not None:
        yield from engines.execute(change.engine_id, cell["key"], run.id)
    cell["turns"] += 1
    cell["updated_at"] = run.created_at
    cell["agent_name"] = run.agent_name
    status = RunStatus.QUEUED if waiting or run.background else RunStatus.RUNNING
    lineage, first_segment = None, change.first
    if status is RunStatus.RUNNING:
        first_segment = yield from _open(change, cell)
        lineage = yield from conversations.lineage_of(cell)
    yield Query(sessions.INSERT, cell) if is_new else sessions.advance(cell)
    placed = _placed(run, cell, status, first_segment)
    cells = _run_cells(change, cell, status, first_segment)
    if change.terms is not None:
        placed, cells = yield from _priced(placed, cells, change.terms, reserved)
    yield Query(_INSERT, cells)
    if change.claim is not None:
        yield claims.write(run.owner, change.claim, run.id, run.created_at)
    told = None if first_segment is change.first else first_segment
    return Accepted(placed, lineage, 1, is_new, told, interrupts)


def _named_session(change: AcceptRun) -> Program:
    """The cells of the session that the request names, itself or by a run of it; `None` if that is to be made."""
    if not change.run.recorded:
        return None
    if change.plan is not None and change.plan.follows is not None:
        return (yield from followed_runs.session_of(change, change.plan.follows))
    if not change.names_session:
        return None
    rows = yield sessions.find(change.new_session, names_user=change.names_user)
    return sessions.cells(rows[0]) if rows else None


def _priced(run: Run, cells: Cells, terms: Terms, reserved: tuple[int, credits.Held] | None) -> Program:
    """The run and its cells with what it may cost, which is set aside now."""
    amount, held = (None, {}) if reserved is None else reserved
    if amount is not None:
        yield from credits.keep_reserved(run.owner.organization, amount, held, run.created_at)
    cells["terms"], cells["reserved"] = terms_text(terms.pricing, tuple(held)), amount
    is_told = run.reserved == amount and run.pricing == terms.pricing
    return run if is_told else replace(run, pricing=terms.pricing, reserved=amount), cells


def _open(change: AcceptRun, cell: Cells) -> Program:
    """The run begins at once: what was injected before it and what was said join the history; its first segment."""
    run, first, injected = change.run, change.first, []
    yield from session_events.log(
        cell, (session_events.run_started(run.id, run.agent_name, run.endpoint, run.created_at),)
    )
    cell["started_sequence"] = cell["sequence"]
    rows = yield injections.waiting_for(cell, run.agent_name, run.created_at)
    if rows:
        injected, payloads = yield from injections.join(rows, run.id, cell["key"], first.last_seq)
        yield from session_events.log(cell, session_events.noted(run.id, payloads, first.last_seq + 1, run.created_at))
        first = Segment(first.first_seq, first.count + len(payloads), b"\n".join((first.data, *payloads)))
    follows = None if change.plan is None else change.plan.follows
    yield from conversations.continue_with(
        cell, change.transcript, change.history, run.created_at, run.id, injected, follows
    )
    return first


def _steer(change: AcceptRun, session_key: str) -> Program:
    """Inject the turn's message into the run under way, if there is one."""
    rows = yield Query(_UNDER_WAY, {"by_key": session_key})
    if not rows:
        return None
    ((run_id, worker, agent_name),) = rows
    yield injections.count_in(run_id)
    run = change.run
    said = "\n".join(message.text for message in change.transcript.new if message.role == "user")
    injection = AcceptInjection(f"inj_{run.id.removeprefix('run_')}", run.owner, said, agent_name, run.created_at)
    yield from injections.insert_for(injection, session_key, (run_id, worker, session_key, agent_name))
    if change.claim is not None:
        yield claims.write(run.owner, change.claim, run_id, run.created_at, injection.id.encode())
    return Steered(run_id, injection.id, worker)


def _make_way(session_key: str) -> Program:
    """Ask the run under way to end; returns its id and who executes it."""
    rows = yield Query(_UNDER_WAY, {"by_key": session_key})
    if not rows:
        return None
    ((run_id, worker, _),) = rows
    yield Query(_ASK_TO_END, {"by_id": run_id})
    return run_id, worker


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


def _check_pause(run: Run, session_key: str) -> Program:
    """Nobody waits for a run that itself waits for people."""
    (first,) = yield Query(NEXT, {"by_key": session_key})
    if first[1] == RunStatus.REQUIRES_ACTION:
        raise RunConflict(
            f"Run {first[0]} of session {run.session_id!r} waits for a decision. Answer it with POST"
            f" /runs/{first[0]}/resume, cancel it, or send when_busy: interrupt.",
            details={"run_id": first[0]},
        )


def _placed(run: Run, cell: Mapping[str, Any], status: RunStatus, first: Segment) -> Run:
    """The run as it was stored, which is as it was asked for in most sessions: the first turn of a new one."""
    is_first = run.turn == cell["turns"] == 1 and run.session_key == cell["key"] and status is RunStatus.RUNNING
    if is_first and run.last_seq == first.last_seq and run.started_at == run.created_at:
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
        recorded=run.recorded,
        own_trace_id=run.own_trace_id,
        parent_span=run.parent_span,
        request=run.request,
        pricing=run.pricing,
        started_at=run.created_at if status is RunStatus.RUNNING else None,
        last_seq=first.last_seq,
    )


def _run_cells(change: AcceptRun, cell: Mapping[str, Any], status: RunStatus, first: Segment) -> Cells:
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
        "worker": NOBODY if run.background else change.worker,
        "epoch": 1,
        "recorded": int(run.recorded),
        "input": messages_body(run.input),
        "output": None,
        "error": None,
        "finish_reason": None,
        "input_tokens": None,
        "output_tokens": None,
        "model": None,
        "steps": 0,
        "last_seq": first.last_seq,
        "metadata": dumps(run.metadata),
        "created_at": run.created_at,
        "started_at": run.created_at if status is RunStatus.RUNNING else None,
        "ended_at": None,
        "started_sequence": cell["started_sequence"] if status is RunStatus.RUNNING else None,
        "ended_sequence": None,
        "opening": first.data,
        "closing": None,
        "closing_seq": None,
        "plan": None if change.plan is None else plan_text(change.plan),
        "webhook": change.webhook,
        "injections": 0,
        "cancel_requested": 0,
        "trace_id": run.own_trace_id,
        "parent_span": run.parent_span,
        "terms": None,
        "reserved": None,
        "request": None if run.request is None else dumps(run.request),
    }
