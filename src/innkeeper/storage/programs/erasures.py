"""Erasures as programs: what is stored of one user goes, a part at a time; what was consumed stays without the name.

A user is whoever asked (`owner`), or an end user on whose behalf somebody else did (`user_id`). Each call does one
part, so that it is short; the next one finds what is left. Tokens come first, so that nothing new comes in meanwhile,
and runs with what waits in the outbox of them before their chat logs, which nobody can derive from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    String,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    select,
    update,
)

from innkeeper.core.administration import Derived, ForgetToken, ForgetUser
from innkeeper.core.changes import DeleteSession, Fence
from innkeeper.core.outcomes import Done
from innkeeper.storage import schema
from innkeeper.storage.programs import files, sessions
from innkeeper.storage.statements import Program, Query, Row, Statement

_SESSIONS_AT_ONCE = 10
"""Each of them may have a long log."""

_sessions, _runs, _logs = schema.sessions, schema.runs, schema.chat_logs
_records, _usage, _entries, _tokens = schema.credit_records, schema.model_usage, schema.balance_entries, schema.tokens
_user, _stand_in = bindparam("user", type_=String), bindparam("stand_in", type_=String)
_limit: ColumnElement[int] = bindparam("limit", type_=BigInteger)


def _by_owner(table: Table) -> ColumnElement[bool]:
    return and_(table.c.organization == bindparam("organization"), table.c.owner == _user)


def _for_user(table: Table) -> ColumnElement[bool]:
    """Made on behalf of the user by somebody else; there is an index of just these."""
    return and_(
        table.c.user_id == _user, table.c.organization == bindparam("organization"), table.c.user_id != table.c.owner
    )


def _some(key: ColumnElement[str], is_theirs: ColumnElement[bool], *also: Any) -> Statement:
    return Statement(select(key, *also).where(is_theirs).order_by(key).limit(_limit), returns=True)


_NAMES = ("by_id", "by_run", "by_session", "by_owner")


def _place_of(table: Table, run_id: ColumnElement[str]) -> tuple[ColumnElement[str], ...]:
    """Of which run a row is, in which session, and whose that is: by that are found lines of a session that is gone."""
    return run_id.label("run"), table.c.session_id, table.c.owner


_session_names = (_sessions.c.id, _sessions.c.owner)
_by_age = (_sessions.c.recorded, _sessions.c.key)
_FIND_SESSIONS = (
    Statement(
        select(_sessions.c.key, *_session_names).where(_by_owner(_sessions)).order_by(*_by_age).limit(_limit),
        returns=True,
    ),
    _some(_sessions.c.key, _for_user(_sessions), *_session_names),
)
# One that is under way goes with its session, which gives back what was set aside for it.
_FIND_RUNS = tuple(
    _some(_runs.c.id, is_theirs & _runs.c.ended_at.is_not(None), *_place_of(_runs, _runs.c.id))
    for is_theirs in (_by_owner(_runs), _for_user(_runs))
)
_files = schema.files
_FIND_FILES = (_some(_files.c.id, _by_owner(_files)), _some(_files.c.id, _for_user(_files)))
_its_organization = _logs.c.organization == bindparam("organization")
_FIND_LOGS = (
    _some(_logs.c.id, _by_owner(_logs), *_place_of(_logs, _logs.c.run_id)),
    _some(_logs.c.id, (_logs.c.user_id == _user) & _its_organization, *_place_of(_logs, _logs.c.run_id)),
)
_outbox = schema.outbox
_OUTBOX = Statement(
    delete(_outbox).where(
        _outbox.c.topic.in_([literal_column("'log'"), literal_column("'copy'")]),
        _outbox.c.run_id == bindparam("by_run"),
    )
)
_lines = schema.log_records
_LINES_OF_SESSION = Statement(
    delete(_lines).where(
        _lines.c.session_id == bindparam("by_session"),
        _lines.c.organization == bindparam("organization"),
        _lines.c.owner == bindparam("by_owner"),
    )
)
_OF_RUN = (
    *(
        Statement(delete(table).where(table.c.run_id == bindparam("by_run")))
        for table in (schema.segments, schema.deliveries, schema.injections, schema.actions, schema.continuations)
    ),
    _OUTBOX,
    _LINES_OF_SESSION,
    Statement(delete(_runs).where(_runs.c.id == bindparam("by_run"))),
)
_OF_LOG = (_OUTBOX, _LINES_OF_SESSION, Statement(delete(_logs).where(_logs.c.id == bindparam("by_id"))))
_FIND_TOKENS = _some(_tokens.c.id, _by_owner(_tokens))
_REVOKE = Statement(
    update(_tokens)
    .where(_tokens.c.id == bindparam("by_id"))
    .values(
        owner=_stand_in,
        name=literal_column("''"),
        revoked_at=func.coalesce(_tokens.c.revoked_at, bindparam("now", type_=BigInteger)),
    )
)


def _without_name(column: ColumnElement[str]) -> ColumnElement[str]:
    return case((column == _user, _stand_in), else_=column)


def _renamed(table: Table, key: ColumnElement[str], **blank: Any) -> Statement:
    names = {name: _without_name(table.c[name]) for name in ("owner", "user_id") if name in table.c}
    return Statement(update(table).where(key == bindparam("by_id")).values(**names, **blank))


# What agents and operators wrote to a row may be about the user; that a charge is its agent's price is not.
_reason = case(
    (_records.c.reason == literal_column("'pricing'"), _records.c.reason), else_=literal_column("'forgotten'")
)
_blank = {"reason": _reason, "metadata": literal_column("'{}'")}
_waiting, _claims, _balances, _users = schema.injections, schema.idempotency_keys, schema.balances, schema.users
_waits_for_agent = and_(
    _by_owner(_waiting), _waiting.c.status == literal_column("'deferred'"), _waiting.c.session_key.is_(None)
)
_ANONYMISE_RECORD = _renamed(_records, _records.c.id, **_blank)
_ANONYMISE_USAGE = _renamed(_usage, _usage.c.run_id)
_each_entry = _by_owner(_entries) & (_entries.c.id == bindparam("by_id"))
_ANONYMISE_ENTRY = Statement(update(_entries).where(_each_entry).values(owner=_stand_in, reason=literal_column("''")))
_DROP_LINE = Statement(delete(_lines).where(_lines.c.id == bindparam("by_id")))
_DROP_CLAIM = Statement(delete(_claims).where(_by_owner(_claims), _claims.c.key == bindparam("by_id")))
_DROP_USER = Statement(delete(_users).where(_by_owner(_users), _users.c.user_id == bindparam("by_id")))
_FOUND = (
    (_some(_lines.c.id, _by_owner(_lines)), _DROP_LINE),
    (_some(_claims.c.key, _by_owner(_claims)), _DROP_CLAIM),
    (_some(_records.c.id, _by_owner(_records)), _ANONYMISE_RECORD),
    (_some(_records.c.id, _for_user(_records)), _ANONYMISE_RECORD),
    (_some(_usage.c.run_id, _by_owner(_usage)), _ANONYMISE_USAGE),
    (_some(_usage.c.run_id, _for_user(_usage)), _ANONYMISE_USAGE),
    (_some(_entries.c.id, _by_owner(_entries)), _ANONYMISE_ENTRY),
    (_some(_users.c.user_id, _by_owner(_users)), _DROP_USER),
)
_FINDS = tuple(finding for finding, _ in _FOUND)
_DROPS = (
    Statement(delete(_waiting).where(_waits_for_agent).returning(_waiting.c.id), returns=True),
    Statement(delete(_balances).where(_by_owner(_balances)).returning(_balances.c.owner), returns=True),
    Statement(
        delete(_users)
        .where(_users.c.user_id == _user, _users.c.organization == bindparam("organization"))
        .returning(_users.c.owner),
        returns=True,
    ),
)


def forget_token(change: ForgetToken, fence: Fence | None) -> Program:
    yield Query(_REVOKE, {"by_id": change.token_id, "stand_in": change.stand_in, "now": change.now})
    return Done()


def forget_user(change: ForgetUser, fence: Fence | None) -> Program:
    told = {
        "user": change.user,
        "organization": change.organization,
        "stand_in": change.stand_in,
        "now": change.now,
        "limit": change.limit,
    }
    for part in _parts(told):
        count = yield from part
        if count:
            return Derived(count)
    return Derived(0)


def _parts(told: dict[str, Any]) -> Iterator[Program]:
    yield _forget_each(_FIND_TOKENS, told, (_REVOKE,))
    for statement in _FIND_SESSIONS:
        yield _forget_sessions(statement, told)
    for statement in _FIND_FILES:
        yield _forget_files(statement, told)
    for statement in _FIND_RUNS:
        yield _forget_each(statement, told, _OF_RUN)
    for statement in _FIND_LOGS:
        yield _forget_each(statement, told, _OF_LOG)
    for finding, change in _FOUND:
        yield _forget_each(finding, told, (change,))
    for statement in _DROPS:
        yield _counted(statement, told)


def _counted(statement: Statement, told: dict[str, Any]) -> Program:
    return len((yield Query(statement, told)))


def _forget_sessions(statement: Statement, told: dict[str, Any]) -> Program:
    rows = yield Query(statement, {**told, "limit": min(told["limit"], _SESSIONS_AT_ONCE)})
    for key, *_ in rows:  # all of them before the account of any, as who writes to a workspace has it
        yield Query(sessions.LOCK, {"by_key": key})
    for key, session_id, owner in rows:
        yield from sessions.remove(DeleteSession(key), None)
        yield Query(_LINES_OF_SESSION, {**told, "by_session": session_id, "by_owner": owner})
    return len(rows)


def _forget_files(statement: Statement, told: dict[str, Any]) -> Program:
    """What somebody else has just deleted has given back its room already."""
    rows = yield Query(statement, told)
    still_there: list[Row] = []
    for file_id, *_ in rows:
        still_there += yield Query(files.LOCK, {"by_id": file_id})
    for (file_id,) in still_there:
        for deletion in files.DROPS:
            yield Query(deletion, {"by_id": file_id})
    return len(rows)


def _forget_each(statement: Statement, told: dict[str, Any], deletions: Sequence[Statement]) -> Program:
    rows = yield Query(statement, told)
    for row in rows:
        named = dict(zip(_NAMES, row, strict=False))
        for deletion in deletions:
            yield Query(deletion, {**told, **named})
    return len(rows)
