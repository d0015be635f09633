"""Injections as programs: stored for a run under way or for the next one, and delivered into a run's log once.

The accept counts itself in the run's row, which locks it: an end that follows sees what was accepted before, and
an accept that comes after the end finds no run under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    String,
    bindparam,
    column,
    insert,
    literal_column,
    null,
    or_,
    select,
    table,
    update,
)

from innkeeper.core.changes import AcceptInjection, DeliverInjections, Fence, Segment
from innkeeper.core.events import MessageInjected, payload
from innkeeper.core.injections import LIFETIME, InjectedMessage, Injection, InjectionStatus
from innkeeper.core.messages import Message
from innkeeper.core.outcomes import Delivered, Injected, Missing, Stale
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.programs import claims, logs, session_events, sessions
from innkeeper.storage.records import dumps, loads
from innkeeper.storage.statements import Program, Query, Statement, unindexed

_table, _runs = schema.injections, schema.runs
_numbered = table("injections", *(column(one.name, one.type) for one in _table.c if one.name != "number"))
_INSERT = Statement(insert(_numbered))  # the database gives the number
_is_running = _runs.c.status.in_(
    (literal_column("'running'"), literal_column("'requires_action'"))
) & _runs.c.ended_at.is_(None)
_COUNT = Statement(
    update(_runs)
    .where(_runs.c.id == bindparam("by_id"), _is_running)
    .values(injections=_runs.c.injections + literal_column("1"))
    .returning(_runs.c.worker, _runs.c.session_key, _runs.c.agent_name),
    returns=True,
)


def _any(name: str, column: ColumnElement[str]) -> ColumnElement[bool]:
    wanted = bindparam(f"any_{name}", type_=String)
    return or_(wanted.is_(None), column == wanted)


_NEWEST = Statement(
    select(_runs.c.id)
    .where(
        unindexed(_runs.c.organization) == bindparam("by_organization"),
        unindexed(_runs.c.owner) == bindparam("by_owner"),
        _is_running,
        *(_any(name, column) for name, column in (("id", _runs.c.id), ("session", _runs.c.session_key))),
        _any("agent", _runs.c.agent_name),
        _any("user", _runs.c.user_id),
    )
    .order_by(unindexed(_runs.c.id).desc())
    .limit(literal_column("1")),
    returns=True,
)
_SESSION_OF = Statement(
    select(_runs.c.session_key, _runs.c.recorded, _runs.c.ended_at, _runs.c.agent_name, _runs.c.user_id).where(
        _runs.c.id == bindparam("by_id"),
        _runs.c.organization == bindparam("by_organization"),
        _runs.c.owner == bindparam("by_owner"),
    ),
    returns=True,
)
_first_user = select(_runs.c.user_id).where(_runs.c.id == _table.c.first_run_id).scalar_subquery()
_is_for_agent = (
    _table.c.session_key.is_(None)
    & (_table.c.agent_name == bindparam("by_agent"))
    # what a run of one end user left must not be told in another's
    & or_(_table.c.first_run_id.is_(None), _first_user == bindparam("by_user"))
)
_WAITING = Statement(
    select(_table.c.id, _table.c.content)
    .where(
        _table.c.organization == bindparam("by_organization"),
        _table.c.owner == bindparam("by_owner"),
        _table.c.status == literal_column("'deferred'"),
        _table.c.created_at > bindparam("after"),
        or_(_table.c.session_key == bindparam("by_session"), _is_for_agent),
    )
    .order_by(_table.c.number)
    .with_for_update(),
    returns=True,
)
_ACCEPTED = Statement(
    select(_table.c.id, _table.c.content)
    .where(_table.c.run_id == bindparam("by_run"), _table.c.status == literal_column("'accepted'"))
    .order_by(_table.c.number),
    returns=True,
)
_DELIVERED = Statement(
    select(_table.c.id, _table.c.content)
    .where(_table.c.run_id == bindparam("by_run"), _table.c.seq > bindparam("after"))
    .order_by(_table.c.seq),
    returns=True,
)
_MARK = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"))
    .values(
        status=bindparam("new_status"),
        run_id=bindparam("new_run"),
        session_key=bindparam("new_session"),
        seq=bindparam("new_seq"),
    )
)
_DEFER = Statement(
    update(_table)
    .where(_table.c.run_id == bindparam("by_run"), _table.c.status == literal_column("'accepted'"))
    .values(status=literal_column("'deferred'"), run_id=null(), session_key=bindparam("new_session"))
)
_CALL_OFF = Statement(
    update(_runs).where(_runs.c.id == bindparam("by_id")).values(injections=_runs.c.injections + bindparam("more"))
)


def accept(change: AcceptInjection, fence: Fence | None) -> Program:
    if change.claim is not None:
        known = yield from claims.find(change.owner, change.claim, change.now)
        if known is not None:
            return known
    session_key, user_id = change.session_key, change.user_id
    if change.run_id is not None:
        rows = yield _named(change)
        if not rows:
            return Missing()
        ((key, recorded, _, agent_name, user_id),) = rows
        if change.user_id not in (None, user_id) or change.session_key not in (None, key):
            return Missing()
        session_key = key if recorded else None
        change = replace(change, agent_name=change.agent_name or agent_name)
    target = yield from _target(change, change.session_key, change.run_id)
    if target is None and session_key is not None:
        target = yield from _second_look(change, session_key)
    if target is None and session_key is None and user_id not in (None, change.owner.user):
        return Missing()  # the next run of the agent may be another end user's
    told = yield from insert_for(change, session_key, target)
    if change.claim is not None:
        yield claims.write(change.owner, change.claim, change.id, change.now)
    return told


def _named(change: AcceptInjection) -> Query:
    by = {"by_id": change.run_id, "by_organization": change.owner.organization, "by_owner": change.owner.user}
    return Query(_SESSION_OF, by)


def _second_look(change: AcceptInjection, session_key: str) -> Program:
    """Nothing seems to be under way: look again while no run of the session can begin or end.

    Else what waits for the session's next run might miss the one that begins just now, and what is said later would
    overtake it. For the same reason it goes to the run that is under way where the one that was named has ended.
    """
    yield Query(sessions.LOCK, {"by_key": session_key})
    run_id = change.run_id
    if run_id is not None:
        rows = yield _named(change)
        if rows and rows[0][2] is not None:
            run_id = None
    return (yield from _target(change, session_key, run_id))


def _target(change: AcceptInjection, session_key: str | None, run_id: str | None) -> Program:
    """The run under way that is to have it, counted in; one that ends between the two looks is looked for again."""
    wanted = {
        "by_organization": change.owner.organization,
        "by_owner": change.owner.user,
        "any_id": run_id,
        "any_session": session_key,
        "any_agent": change.agent_name if change.names_agent else None,
        "any_user": change.user_id,
    }
    while rows := (yield Query(_NEWEST, wanted)):
        counted = yield Query(_COUNT, {"by_id": rows[0][0]})
        if counted:
            return (rows[0][0], *counted[0])
    return None


def insert_for(change: AcceptInjection, session_key: str | None, target: Sequence[str] | None) -> Program:
    """Store it for `target` (run, worker, session, agent), which has been counted in, or for what comes next."""
    run_id, worker, key, agent_name = target or (None, None, session_key, change.agent_name)
    status = InjectionStatus.DEFERRED if run_id is None else InjectionStatus.ACCEPTED
    yield Query(
        _INSERT,
        {
            "id": change.id,
            "organization": change.owner.organization,
            "owner": change.owner.user,
            "session_key": key,
            "agent_name": agent_name,
            "first_run_id": run_id,
            "run_id": run_id,
            "content": dumps(change.content),
            "status": status.value,
            "seq": None,
            "created_at": change.now,
        },
    )
    stored = Injection(
        change.id, change.owner, change.content, status, change.now, run_id, run_id, None, key, agent_name
    )
    return Injected(stored, worker)


def count_in(run_id: str) -> Query:
    """Announce an injection to a run under way; returns its worker, session and agent."""
    return Query(_COUNT, {"by_id": run_id})


def waiting_for(cell: Mapping[str, Any], agent_name: str, now: Instant) -> Query:
    """What waits for the next run of this session, or of its owner with this agent."""
    return Query(
        _WAITING,
        {
            "by_organization": cell["organization"],
            "by_owner": cell["owner"],
            "by_session": cell["key"],
            "by_agent": agent_name,
            "by_user": cell["user_id"],
            "after": now - LIFETIME,
        },
    )


def join(rows: Sequence[Sequence[str]], run_id: str, session_key: str, after: int) -> Program:
    """Deliver `rows` at the beginning of a run, whose log ends at `after`; returns its messages and payloads."""
    found = [InjectedMessage(loads(content), id) for id, content in rows]
    for index, message in enumerate(found):
        yield _mark(message.id, InjectionStatus.DELIVERED, run_id, session_key, after + 1 + index)
    return [Message("user", message.content) for message in found], _payloads(found, were_deferred=True)


def adopt(rows: Sequence[Sequence[str]], run_id: str, session_key: str) -> Program:
    """A run that is taken up again is to have `rows`, before its next model call."""
    for id, _ in rows:
        yield _mark(id, InjectionStatus.ACCEPTED, run_id, session_key, None)
    if rows:
        yield Query(_CALL_OFF, {"by_id": run_id, "more": len(rows)})


def _mark(id: str, status: InjectionStatus, run_id: str, session_key: str, seq: int | None) -> Query:
    values = {"new_status": status.value, "new_run": run_id, "new_session": session_key, "new_seq": seq}
    return Query(_MARK, {"by_id": id, **values})


def _payloads(found: Sequence[InjectedMessage], *, were_deferred: bool = False) -> list[bytes]:
    return [payload(MessageInjected(message.content, message.id, were_deferred)) for message in found]


def deliver(change: DeliverInjections, fence: Fence | None) -> Program:
    """Done again, after an answer that was lost, it changes nothing and answers the same."""
    assert fence is not None, "a run's log is written by its owner only"
    cell = yield from session_events.lock(change.session_key)
    held = yield logs.holds(fence)
    if not held:
        return Stale()
    is_first = held[0][0] == change.after
    by_run = {"by_run": fence.run_id}
    rows = yield Query(_ACCEPTED, by_run) if is_first else Query(_DELIVERED, {**by_run, "after": change.after})
    if not rows:
        return Delivered()
    found = tuple(InjectedMessage(loads(content), id) for id, content in rows)
    segment = Segment(change.after + 1, len(found), b"\n".join(_payloads(found)))
    if is_first:
        yield from logs.extend(fence, segment, change.now)
        for index, message in enumerate(found):
            yield Query(_SEEN, {"by_id": message.id, "new_seq": segment.first_seq + index})
        if cell is not None:
            notes = session_events.noted(fence.run_id, segment.payloads(), segment.first_seq, change.now)
            yield from session_events.append(cell, notes)
    return Delivered(found, segment)


_SEEN = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"))
    .values(status=literal_column("'delivered'"), seq=bindparam("new_seq"))
)


def defer(run_id: str, session_key: str | None) -> Query:
    """What a run that has ended did not take waits for the next one."""
    return Query(_DEFER, {"by_run": run_id, "new_session": session_key})
