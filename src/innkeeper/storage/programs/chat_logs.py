"""Chat logs as programs: rows derived from runs that have ended, copied elsewhere, and dropped when they are old.

A run's end leaves a row in the outbox. Who derives sets some of them aside under a topic of its own, which nobody else
ever sees, so that what follows is a few statements, however many runs there are.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Integer, Select, bindparam, case, delete, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from innkeeper.core.administration import CopiedChatLogs, DeriveChatLogs, Derived, ForgetChatLogs, Uncopied
from innkeeper.core.changes import Fence
from innkeeper.core.logs import id_at
from innkeeper.storage import schema
from innkeeper.storage.statements import Program, Query, Statement

RUN = "run_"
_BEHIND_PREFIX = str(len(RUN) + 1)
_DAY = 24 * 60 * 60 * 1_000_000
_outbox, _runs, _logs, _users, _days = schema.outbox, schema.runs, schema.chat_logs, schema.users, schema.days
_is_log = _outbox.c.topic == literal_column("'log'")
_is_copy = _outbox.c.topic == literal_column("'copy'")
_is_set_aside = _outbox.c.topic == literal_column("'deriving'")


def _waiting() -> Any:
    rows = select(_outbox.c.run_id).where(_is_log).order_by(_outbox.c.run_id).limit(bindparam("limit"))
    return rows.with_for_update(skip_locked=True).cte("search")


_SET_ASIDE = Statement(
    update(_outbox)
    .where(_is_log, _outbox.c.run_id.in_(select(_waiting().c.run_id)))
    .values(topic=literal_column("'deriving'"))
    .returning(_outbox.c.run_id),
    returns=True,
)
_id_of_run = func.substr(_runs.c.id, literal_column(_BEHIND_PREFIX))
_ended = (_runs.c.id == _outbox.c.run_id) & _is_set_aside & _runs.c.ended_at.is_not(None)


def _per_run() -> Select[Any]:
    told = {
        "id": _id_of_run,
        "run_id": _runs.c.id,
        "response_time": _runs.c.ended_at - _runs.c.created_at,
    }
    columns = [told[column.name] if column.name in told else _runs.c[column.name] for column in _logs.c]
    return select(*columns).select_from(_outbox.join(_runs, _ended)).order_by(_runs.c.id)


_INSERT = Statement(upsert(_logs).from_select([c.name for c in _logs.c], _per_run()).on_conflict_do_nothing())
_by_user = (_runs.c.organization, _runs.c.owner, _runs.c.user_id)
_see = upsert(_users).from_select(
    [column.name for column in _users.c],
    select(*_by_user, func.min(_runs.c.created_at), func.max(_runs.c.created_at))
    .select_from(_outbox.join(_runs, _ended))
    .group_by(*_by_user)
    .order_by(*_by_user),
)
_SEE_USERS = Statement(
    _see.on_conflict_do_update(
        index_elements=["organization", "owner", "user_id"],
        set_={
            "first_seen_at": case(
                (_see.excluded.first_seen_at < _users.c.first_seen_at, _see.excluded.first_seen_at),
                else_=_users.c.first_seen_at,
            ),
            "last_seen_at": case(
                (_see.excluded.last_seen_at > _users.c.last_seen_at, _see.excluded.last_seen_at),
                else_=_users.c.last_seen_at,
            ),
        },
    )
)
_day = (_runs.c.created_at // literal_column(str(_DAY), Integer)).label("day")
_zero, _one = literal_column("0", Integer), literal_column("1", Integer)
_count = upsert(_days).from_select(
    [column.name for column in _days.c],
    select(
        _day,
        func.count(),
        func.sum(case((_runs.c.status == literal_column("'completed'"), _one), else_=_zero)),
        func.sum(func.coalesce(_runs.c.input_tokens, _zero)),
        func.sum(func.coalesce(_runs.c.output_tokens, _zero)),
    )
    .select_from(_outbox.join(_runs, _ended))
    .group_by(_day)
    .order_by(_day),
)
_COUNT_DAYS = Statement(
    _count.on_conflict_do_update(
        index_elements=["day"],
        set_={
            name: _days.c[name] + _count.excluded[name]
            for name in ("requests", "succeeded", "input_tokens", "output_tokens")
        },
    )
)
_has_row = select(_logs.c.run_id).where(_logs.c.id == func.substr(_outbox.c.run_id, literal_column(_BEHIND_PREFIX)))
_LEAVE = Statement(
    update(_outbox).where(_is_set_aside, _outbox.c.run_id.in_(_has_row)).values(topic=literal_column("'copy'"))
)
_DROP = Statement(delete(_outbox).where(_is_set_aside))
_SET_ASIDE_SESSION = Statement(
    update(_outbox)
    .where(
        _is_log,
        _outbox.c.run_id.in_(
            select(_runs.c.id).where(_runs.c.session_key == bindparam("by_session"), _runs.c.ended_at.is_not(None))
        ),
    )
    .values(topic=literal_column("'deriving'"))
    .returning(_outbox.c.run_id),
    returns=True,
)
_PUT_BACK = Statement(update(_outbox).where(_is_set_aside).values(topic=literal_column("'log'")))
_COPIED = Statement(
    delete(_outbox).where(_is_copy, _outbox.c.run_id == bindparam("by_run")).returning(_outbox.c.run_id), returns=True
)
_KNOWN = Statement(select(_logs.c.id).where(_logs.c.id == bindparam("by_id")), returns=True)
_OLD = Statement(
    select(_logs.c.id).where(_logs.c.id < bindparam("before")).order_by(_logs.c.id).limit(bindparam("limit")),
    returns=True,
)
_FORGET = Statement(delete(_logs).where(_logs.c.id >= bindparam("first"), _logs.c.id <= bindparam("last")))
_FORGET_COPIES = Statement(
    delete(_outbox).where(_is_copy, _outbox.c.run_id >= bindparam("first"), _outbox.c.run_id <= bindparam("last"))
)


def derive(change: DeriveChatLogs, fence: Fence | None) -> Program:
    rows = yield Query(_SET_ASIDE, {"limit": change.limit})
    if rows:
        yield from _write()
        if change.copies:
            yield Query(_LEAVE, {})
        yield Query(_DROP, {})
    return Derived(len(rows))


def derive_of(session_key: str) -> Program:
    """Write the rows of a session's runs, which are about to go; who derives finds them written, and copies them."""
    rows = yield Query(_SET_ASIDE_SESSION, {"by_session": session_key})
    if rows:
        yield from _write()
        yield Query(_PUT_BACK, {})


def _write() -> Program:
    for statement in (_INSERT, _SEE_USERS, _COUNT_DAYS):
        yield Query(statement, {})


def copied(change: CopiedChatLogs, fence: Fence | None) -> Program:
    gone = []
    for run_id in sorted(change.run_ids):  # everybody locks them in one order
        if (yield Query(_COPIED, {"by_run": run_id})):
            continue  # else another process has copied it as well, or its row was erased
        if not (yield Query(_KNOWN, {"by_id": run_id.removeprefix(RUN)})):
            gone.append(run_id)
    return Uncopied(tuple(gone))


def forget(change: ForgetChatLogs, fence: Fence | None) -> Program:
    rows = yield Query(_OLD, {"before": id_at(change.before), "limit": change.limit})
    if rows:
        first, last = rows[0][0], rows[-1][0]
        yield Query(_FORGET, {"first": first, "last": last})
        yield Query(_FORGET_COPIES, {"first": f"{RUN}{first}", "last": f"{RUN}{last}"})
    return Derived(len(rows))
