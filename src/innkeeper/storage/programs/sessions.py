"""Sessions as programs: find, create, update, delete, and the session's own event log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, case, delete, insert, select, update

from innkeeper.core.changes import CreateSession, DeleteSession, Fence, UpdateSession
from innkeeper.core.errors import RunConflict
from innkeeper.core.outcomes import Done, Missing
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.programs import chat_logs, commands, credits, engines, files, sources
from innkeeper.storage.records import SESSION_COLUMNS, charged_of, dumps, session_of
from innkeeper.storage.statements import Program, Query, Row, Statement

_table = schema.sessions
_named = (
    (_table.c.organization == bindparam("by_organization"))
    & (_table.c.owner == bindparam("by_owner"))
    & (_table.c.id == bindparam("by_id"))
    & (_table.c.recorded == bindparam("by_recorded"))
)
FIND = Statement(
    select(*SESSION_COLUMNS)
    .where(_named)
    .order_by((_table.c.user_id == bindparam("by_user")).desc(), _table.c.key.desc())
    .limit(1)
    .with_for_update(),
    returns=True,
)
FIND_OF_USER = Statement(
    select(*SESSION_COLUMNS).where(_named, _table.c.user_id == bindparam("by_user")).with_for_update(),
    returns=True,
)
LOCK = Statement(select(*SESSION_COLUMNS).where(_table.c.key == bindparam("by_key")).with_for_update(), returns=True)
INSERT = Statement(insert(_table))
_MOVED = (
    "agent_name",
    "updated_at",
    "last_message_at",
    "head_position",
    "head_branch",
    "head_chain",
    "message_count",
    "last_position",
    "last_branch",
    "instructions",
    "turns",
    "sequence",
    "input_tokens",
    "output_tokens",
    "last_event_at",
)
_MOVING = tuple((f"new_{name}", name) for name in _MOVED)
ADVANCE = Statement(
    update(_table)
    .where(_table.c.key == bindparam("by_key"))
    .values({name: bindparam(f"new_{name}") for name in _MOVED})
)
_UPDATE = Statement(
    update(_table)
    .where(_table.c.key == bindparam("by_key"))
    .values(
        title=bindparam("new_title"),
        metadata=bindparam("new_metadata"),
        archived=bindparam("new_archived"),
        updated_at=bindparam("new_updated_at"),
    )
    .returning(*SESSION_COLUMNS),
    returns=True,
)
_COUNTED = (
    "head_position",
    "head_chain",
    "message_count",
    "last_position",
    "sequence",
    "input_tokens",
    "output_tokens",
    "last_message_at",
    "last_event_at",
    "recorded",
    "head_branch",
)
_STAYS = ("head_branch", "recorded")
LOCK_COUNTED = Statement(
    select(*(_table.c[name] for name in _COUNTED)).where(_table.c.key == bindparam("by_key")).with_for_update(),
    returns=True,
)
COUNT = Statement(
    update(_table)
    .where(_table.c.key == bindparam("key"))
    .values(
        {name: bindparam(f"new_{name}") for name in _COUNTED if name not in _STAYS}
        | {"updated_at": bindparam("new_updated_at")}
    )
)
_runs_of_session = select(schema.runs.c.id).where(schema.runs.c.session_key == bindparam("by_key"))
_DELETES = (
    Statement(delete(schema.segments).where(schema.segments.c.run_id.in_(_runs_of_session))),
    Statement(delete(schema.messages).where(schema.messages.c.session_key == bindparam("by_key"))),
    Statement(delete(schema.branches).where(schema.branches.c.session_key == bindparam("by_key"))),
    Statement(delete(schema.injections).where(schema.injections.c.session_key == bindparam("by_key"))),
    Statement(delete(schema.session_events).where(schema.session_events.c.session_key == bindparam("by_key"))),
    Statement(delete(schema.actions).where(schema.actions.c.session_key == bindparam("by_key"))),
    Statement(delete(schema.continuations).where(schema.continuations.c.session_key == bindparam("by_key"))),
    *files.FORGET_WORKSPACE,
    Statement(delete(_table).where(_table.c.key == bindparam("by_key"))),
)
# Who writes a run's log holds the run before its injections; so must who deletes both.
_LOCK_RUNS = Statement(
    select(
        schema.runs.c.organization,
        schema.runs.c.terms,
        case((schema.runs.c.ended_at.is_(None), schema.runs.c.reserved)),
    )
    .where(schema.runs.c.session_key == bindparam("by_key"))
    .order_by(schema.runs.c.id)
    .with_for_update(),
    returns=True,
)
_DELETE_DELIVERIES = Statement(delete(schema.deliveries).where(schema.deliveries.c.run_id.in_(_runs_of_session)))
_DELETE_RUNS = Statement(delete(schema.runs).where(schema.runs.c.session_key == bindparam("by_key")))

NAMES = tuple(column.name for column in SESSION_COLUMNS)


def cells(row: Row) -> dict[str, Any]:
    """A row of `SESSION_COLUMNS` by column name."""
    return dict(zip(NAMES, row, strict=True))


def fresh(session: Session, *, recorded: bool = True) -> dict[str, Any]:
    """The cells of a session that has no messages yet; one that is not recorded takes no name from its owner."""
    return {
        "key": session.key,
        "organization": session.owner.organization,
        "owner": session.owner.user,
        "user_id": session.user_id,
        "id": session.id if recorded else session.key,
        "agent_name": session.agent_name,
        "title": session.title,
        "metadata": dumps(session.metadata),
        "archived": int(session.archived),
        "recorded": int(recorded),
        "created_at": session.created_at,
        "updated_at": session.updated_at,
        "last_message_at": None,
        "head_position": 0,
        "head_branch": 0,
        "head_chain": "",
        "message_count": 0,
        "last_position": 0,
        "last_branch": 0,
        "instructions": "",
        "turns": 0,
        "sequence": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "last_event_at": 0,
        "token_digest": None,
    }


def find(session: Session, *, names_user: bool) -> Query:
    """Look a session up by what its caller calls it; a named end user must match."""
    statement = FIND_OF_USER if names_user else FIND
    return Query(
        statement,
        {
            "by_organization": session.owner.organization,
            "by_owner": session.owner.user,
            "by_id": session.id,
            "by_recorded": 1,
            "by_user": session.user_id,
        },
    )


def advance(cell: Mapping[str, Any]) -> Query:
    """Write the moving parts of a session back."""
    values = {new: cell[name] for new, name in _MOVING}
    values["by_key"] = cell["key"]
    return Query(ADVANCE, values)


def counted(key: str, row: Row) -> dict[str, Any]:
    """The cells of `LOCK_COUNTED`: what a run's end moves, and nothing else."""
    cell = dict(zip(_COUNTED, row, strict=True))
    cell["key"] = key
    return cell


def count(cell: Mapping[str, Any], now: Instant) -> Query:
    """Write the cells of `counted` back."""
    return Query(
        COUNT,
        {
            "key": cell["key"],
            "new_head_position": cell["head_position"],
            "new_head_chain": cell["head_chain"],
            "new_message_count": cell["message_count"],
            "new_last_position": cell["last_position"],
            "new_sequence": cell["sequence"],
            "new_input_tokens": cell["input_tokens"],
            "new_output_tokens": cell["output_tokens"],
            "new_last_message_at": cell["last_message_at"],
            "new_last_event_at": cell["last_event_at"],
            "new_updated_at": now,
        },
    )


def create(change: CreateSession, fence: Fence | None) -> Program:
    rows = yield find(change.session, names_user=True)
    if rows:
        raise RunConflict(f"Session {change.session.id!r} exists already.", param="session_id")
    yield Query(INSERT, {**fresh(change.session), "token_digest": change.token_digest})
    return Done(change.session)


def update_cells(change: UpdateSession, cell: Mapping[str, Any]) -> dict[str, Any]:
    title = cell["title"] if change.title is None else change.title
    return {
        "by_key": change.session_key,
        "new_title": None if change.clears_title else title,
        "new_metadata": cell["metadata"] if change.metadata is None else dumps(change.metadata),
        "new_archived": cell["archived"] if change.archived is None else int(change.archived),
        "new_updated_at": change.now,
    }


def modify(change: UpdateSession, fence: Fence | None) -> Program:
    rows = yield Query(LOCK, {"by_key": change.session_key})
    if not rows:
        return Missing()
    rows = yield Query(_UPDATE, update_cells(change, cells(rows[0])))
    return Done(session_of(rows[0]))


def remove(change: DeleteSession, fence: Fence | None) -> Program:
    rows = yield Query(LOCK, {"by_key": change.session_key})
    if not rows:
        return Missing()
    for organization, terms, reserved in (yield Query(_LOCK_RUNS, {"by_key": change.session_key})):
        if reserved:
            yield from credits.give_back(organization, charged_of(terms), reserved)
    yield from chat_logs.derive_of(change.session_key)
    for statement in (*_DELETES, _DELETE_DELIVERIES, _DELETE_RUNS):
        yield Query(statement, {"by_key": change.session_key})
    for statement in (commands.FORGET, *sources.FORGET):
        yield Query(statement, {"by_key": change.session_key})
    yield engines.remove_all(change.session_key)
    return Done()


def forget(session_key: str) -> Program:
    """Remove a conversation that was not to be recorded; its runs stay, without contents."""
    for statement in _DELETES:
        yield Query(statement, {"by_key": session_key})
