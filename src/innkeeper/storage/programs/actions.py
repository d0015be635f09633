"""Actions as programs: a run is paused, answered and goes on, or is taken over when nobody has answered in time.

Who answers holds the session and the run, so that of two people who decide at once, one is told that it was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, delete, insert, literal_column, select, update

from innkeeper.core.action_changes import Expired, Paused, PauseRun, Resumed, ResumeRun, TakeExpired, Waits
from innkeeper.core.actions import STATUS_OF, ActionStatus, Answer, Continuation, StoredAction, check_answer
from innkeeper.core.changes import Fence, Segment
from innkeeper.core.errors import ActionNotFound, Invalid, RunConflict
from innkeeper.core.events import ActionsAnswered, payload
from innkeeper.core.outcomes import Missing, Stale
from innkeeper.core.runs import Plan, Run, RunStatus
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.action_records import ACTION_COLUMNS, action_of, answer_text
from innkeeper.storage.programs import claims, conversations, credits, logs, session_events, sessions
from innkeeper.storage.programs.runs import NOBODY
from innkeeper.storage.records import RUN_COLUMNS, dumps, loads, plan_of, plan_text, run_of
from innkeeper.storage.statements import Program, Query, Statement

_table, _runs, _continuations = schema.actions, schema.runs, schema.continuations
_INSERT = Statement(insert(_table))
_LAST_NUMBER = Statement(
    select(_table.c.number).where(_table.c.run_id == bindparam("by_run")).order_by(_table.c.number.desc()).limit(1),
    returns=True,
)
_PAUSE = Statement(
    update(_runs)
    .where(_runs.c.id == bindparam("by_id"))
    .values(
        status=literal_column("'requires_action'"), worker=literal_column(f"'{NOBODY}'"), plan=bindparam("new_plan")
    )
    .returning(
        _runs.c.organization,
        _runs.c.owner,
        _runs.c.user_id,
        _runs.c.session_id,
        _runs.c.agent_name,
        _runs.c.cancel_requested,
    ),
    returns=True,
)
_KEEP_STATE = Statement(insert(_continuations))
_SESSION_OF = Statement(
    select(_runs.c.session_key).where(
        _runs.c.id == bindparam("by_id"),
        _runs.c.organization == bindparam("by_organization"),
        _runs.c.owner == bindparam("by_owner"),
    ),
    returns=True,
)
_LOCK_RUN = Statement(
    select(*RUN_COLUMNS, _runs.c.plan).where(_runs.c.id == bindparam("by_id")).with_for_update(), returns=True
)
_OF_RUN = Statement(
    select(*ACTION_COLUMNS).where(_table.c.run_id == bindparam("by_run")).order_by(_table.c.number), returns=True
)
_DECIDE = Statement(
    update(_table)
    .where(_table.c.run_id == bindparam("by_run"), _table.c.id == bindparam("by_id"), _is_pending := (
        _table.c.status == literal_column("'pending'")
    ))
    .values(
        status=bindparam("new_status"),
        answer=bindparam("new_answer"),
        decided_by=bindparam("new_decided_by"),
        decided_at=bindparam("new_decided_at"),
    )
)  # fmt: skip
_STATE = Statement(select(_continuations.c.state).where(_continuations.c.run_id == bindparam("by_run")), returns=True)
_DROP_STATE = Statement(delete(_continuations).where(_continuations.c.run_id == bindparam("by_run")))
_TAKE = Statement(
    update(_runs)
    .where(_runs.c.id == bindparam("by_id"))
    .values(status=bindparam("new_status"), worker=bindparam("new_worker"), epoch=_runs.c.epoch + literal_column("1"))
    .returning(_runs.c.epoch),
    returns=True,
)
_TAKE_TO_END = Statement(
    update(_runs)
    .where(_runs.c.id == bindparam("by_id"))
    .values(
        status=literal_column("'running'"),
        worker=bindparam("new_worker"),
        epoch=_runs.c.epoch + literal_column("1"),
        cancel_requested=literal_column("1"),
    )
    .returning(_runs.c.epoch),
    returns=True,
)
"""Should its new worker die before it has ended the run, nobody executes it."""

_CLOSE = Statement(
    update(_table)
    .where(_table.c.run_id == bindparam("by_run"), _is_pending)
    .values(status=bindparam("new_status"), decided_at=bindparam("new_decided_at"))
)
_OVERDUE = Statement(
    select(_table.c.run_id)
    .where(_is_pending, _table.c.expires_at <= bindparam("now"))
    .order_by(_table.c.expires_at)
    .limit(bindparam("limit")),
    returns=True,
)
_LOCK_PAUSED = Statement(
    select(*RUN_COLUMNS)
    .where(_runs.c.id == bindparam("by_id"), _runs.c.status == literal_column("'requires_action'"))
    .with_for_update(skip_locked=True),
    returns=True,
)  # fmt: skip


def pause(change: PauseRun, fence: Fence | None) -> Program:
    """Done again, after an answer that was lost, it is `Stale`: the run is nobody's any more."""
    assert fence is not None, "a run is paused by its owner only"
    cell = yield from session_events.lock(change.session_key)
    owner = yield from logs.extend(fence, change.segment, change.now)
    if owner is None:
        return Stale()
    for record in change.records:
        yield credits.record(fence.run_id, owner, record)
    if cell is not None:
        yield from session_events.append(cell, change.notes)
    last = yield Query(_LAST_NUMBER, {"by_run": change.run_id})
    number = last[0][0] if last else 0
    ((*named, is_cancelling),) = yield Query(_PAUSE, {"by_id": change.run_id, "new_plan": plan_text(change.plan)})
    whose = dict(zip(("organization", "owner", "user_id", "session_id", "agent_name"), named, strict=True))
    for place, action in enumerate(change.actions, number + 1):
        cells = {
            **whose,
            "run_id": change.run_id,
            "number": place,
            "session_key": change.session_key,
            "id": action.id,
            "kind": action.kind,
            "name": action.name,
            "arguments": dumps(action.arguments),
            "status": ActionStatus.PENDING.value,
            "answer": None,
            "decided_by": None,
            "created_at": change.now,
            "expires_at": change.expires_at,
            "decided_at": None,
        }
        yield Query(_INSERT, cells)
    state = {"run_id": change.run_id, "session_key": change.session_key, "state": dumps(change.state)}
    yield Query(_KEEP_STATE, state)
    return Paused(bool(is_cancelling))


def resume(change: ResumeRun, fence: Fence | None) -> Program:
    if change.claim is not None:
        known = yield from claims.find(change.owner, change.claim, change.now)
        if known is not None:
            return known
    whose = {"by_organization": change.owner.organization, "by_owner": change.owner.user}
    found = yield Query(_SESSION_OF, {"by_id": change.run_id, **whose})
    if not found:
        return Missing()
    locked = yield Query(sessions.LOCK, {"by_key": found[0][0]})
    rows = yield Query(_LOCK_RUN, {"by_id": change.run_id})
    if not locked or not rows:
        return Missing()
    *row, text = rows[0]
    run = run_of(row)
    asked = [action_of(one) for one in (yield Query(_OF_RUN, {"by_run": run.id}))]
    asked = [one for one in asked if one.created_at == asked[-1].created_at]
    _check(run, asked, change)
    for answer in change.answers:
        yield Query(_DECIDE, _decision(change, answer))
    if change.claim is not None:
        yield claims.write(change.owner, change.claim, run.id, change.now)
    given = {one.action.id: one.answer for one in asked if one.answer is not None}
    given |= {answer.action_id: answer for answer in change.answers}
    if len(given) < len(asked):
        return Waits(run, len(asked) - len(given))
    answers = tuple(given[one.action.id] for one in asked)
    return (yield from _go_on(change, sessions.cells(locked[0]), run, plan_of(text) if text else Plan(), answers))


def _check(run: Run, asked: Sequence[StoredAction], change: ResumeRun) -> None:
    if run.status is not RunStatus.REQUIRES_ACTION or not change.answers:  # nothing is pending once somebody cancels
        status = run.status.value if run.status is not RunStatus.REQUIRES_ACTION else "being cancelled"
        raise RunConflict(
            f"Run {run.id!r} waits for no decision: it is {status}.", details={"status": run.status.value}
        )
    by_id = {one.action.id: one for one in asked}
    if len({answer.action_id for answer in change.answers}) < len(change.answers):
        raise Invalid("Each action can be answered once.", param="answers")
    for answer in change.answers:
        one = by_id.get(answer.action_id)
        if one is None:
            raise ActionNotFound(f"Run {run.id!r} has no action {answer.action_id!r}.", param="answers")
        if one.status is not ActionStatus.PENDING:
            told = f"Action {answer.action_id!r} has been decided already: it is {one.status.value}."
            raise RunConflict(told, details={"status": one.status.value})
        if one.expires_at <= change.now:
            raise RunConflict(f"Action {answer.action_id!r} has expired.", details={"status": "expired"})
        check_answer(one.action, answer)


def _decision(change: ResumeRun, answer: Answer) -> dict[str, Any]:
    return {
        "by_run": change.run_id,
        "by_id": answer.action_id,
        "new_status": STATUS_OF[answer.decision].value,
        "new_answer": answer_text(answer),
        "new_decided_by": change.decided_by,
        "new_decided_at": change.now,
    }


def _go_on(change: ResumeRun, cell: dict[str, Any], run: Run, plan: Plan, answers: tuple[Answer, ...]) -> Program:
    ((state,),) = yield Query(_STATE, {"by_run": run.id})
    yield Query(_DROP_STATE, {"by_run": run.id})
    ((epoch,),) = yield Query(
        _TAKE, {"by_id": run.id, "new_status": RunStatus.RUNNING.value, "new_worker": change.worker}
    )
    fence = Fence(run.id, change.worker, epoch)
    data = payload(ActionsAnswered(answers))
    segment = Segment(run.last_seq + 1, 1, data)
    yield from logs.extend(fence, segment, change.now)
    yield from session_events.log(cell, session_events.noted(run.id, (data,), segment.first_seq, change.now))
    lineage = yield from conversations.lineage_of(cell)
    yield sessions.advance(cell)
    going = replace(run, status=RunStatus.RUNNING, last_seq=segment.last_seq)
    return Resumed(going, plan, fence, lineage, segment, Continuation(loads(state), answers))


def close(run_id: str, status: ActionStatus, now: Instant) -> Program:
    """Nobody can answer any more: what was pending has this status, and nothing is left to go on with."""
    yield Query(_CLOSE, {"by_run": run_id, "new_status": status.value, "new_decided_at": now})
    yield Query(_DROP_STATE, {"by_run": run_id})


def take_expired(change: TakeExpired, fence: Fence | None) -> Program:
    overdue = yield Query(_OVERDUE, {"now": change.now, "limit": change.limit})
    taken = []
    for run_id in dict.fromkeys(row[0] for row in overdue):
        rows = yield Query(_LOCK_PAUSED, {"by_id": run_id})
        if not rows:
            continue
        run = run_of(rows[0])
        ((epoch,),) = yield Query(_TAKE_TO_END, {"by_id": run.id, "new_worker": change.worker})
        yield from close(run.id, ActionStatus.EXPIRED, change.now)
        taken.append((replace(run, status=RunStatus.RUNNING), Fence(run.id, change.worker, epoch)))
    return Expired(tuple(taken))
