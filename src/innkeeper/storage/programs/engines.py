"""Engines as programs: stored with a session that exists, executed by the accept of a run, removed by themselves.

Whoever makes or executes one holds its session first.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, bindparam, delete, insert, literal_column, select, update

from innkeeper.core.changes import Fence
from innkeeper.core.control_changes import CreateEngine, DeleteEngine
from innkeeper.core.engines import Engine
from innkeeper.core.errors import EngineNotFound, TooBusy
from innkeeper.core.identity import Owner
from innkeeper.core.outcomes import Done, Missing
from innkeeper.storage import schema
from innkeeper.storage.programs import claims
from innkeeper.storage.records import dumps, plain
from innkeeper.storage.statements import Program, Query, Statement

_table, _sessions = schema.engines, schema.sessions
_is_owned = (_table.c.organization == bindparam("by_organization")) & (_table.c.owner == bindparam("by_owner"))
_LOCK_SESSION = Statement(
    select(_sessions.c.key).where(_sessions.c.key == bindparam("by_key")).with_for_update(), returns=True
)
_ONE_OF_TOO_MANY = Statement(
    select(_table.c.id)
    .where(_is_owned)
    .order_by(_table.c.id)
    .limit(literal_column("1"))
    .offset(bindparam("by_count", type_=BigInteger)),
    returns=True,
)
_INSERT = Statement(insert(_table))
_EXECUTE = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"), _table.c.session_key == bindparam("by_key"))
    .values(last_run_id=bindparam("new_run"))
    .returning(_table.c.id),
    returns=True,
)
_DELETE = Statement(
    delete(_table).where(_table.c.id == bindparam("by_id"), _is_owned).returning(_table.c.id), returns=True
)
_DELETE_OF_SESSION = Statement(delete(_table).where(_table.c.session_key == bindparam("by_key")))

_RETRY_AFTER = 60


def create(change: CreateEngine, fence: Fence | None) -> Program:
    engine, claim = change.engine, change.claim
    if claim is not None:
        known = yield from claims.find(engine.owner, claim, engine.created_at)
        if known is not None:
            return known
    rows = yield Query(_LOCK_SESSION, {"by_key": engine.session_key})
    if not rows:
        return Missing()
    full = yield Query(_ONE_OF_TOO_MANY, {**_owned(engine.owner), "by_count": change.at_most - 1})
    if full:
        raise TooBusy(
            f"You have {change.at_most} engines already, which is the most there may be. Delete those that you do not"
            " use: DELETE /api/engines/{engine_id}.",
            retry_after=_RETRY_AFTER,
        )
    yield Query(_INSERT, _cells(engine))
    if claim is not None:
        yield claims.write(engine.owner, claim, engine.id, engine.created_at, engine.session_id.encode())
    return Done()


def _owned(owner: Owner) -> dict[str, str]:
    return {"by_organization": owner.organization, "by_owner": owner.user}


def _cells(engine: Engine) -> dict[str, Any]:
    return {
        "id": engine.id,
        "organization": engine.owner.organization,
        "owner": engine.owner.user,
        "user_id": engine.user_id,
        "session_key": engine.session_key,
        "session_id": engine.session_id,
        "engine_type": engine.engine_type,
        "model_name": None if engine.model_name is None else plain(engine.model_name),
        "configuration": dumps(dict(engine.configuration)),
        "last_run_id": engine.last_run_id,
        "created_at": engine.created_at,
    }


def execute(engine_id: str, session_key: str, run_id: str) -> Program:
    """The run becomes the engine's last one.

    Raises: EngineNotFound where that session has no such engine (any more).
    """
    rows = yield Query(_EXECUTE, {"by_id": engine_id, "by_key": session_key, "new_run": run_id})
    if not rows:
        raise EngineNotFound(f"Engine {engine_id!r} does not exist (any more).", param="engine_id")


def remove(change: DeleteEngine, fence: Fence | None) -> Program:
    rows = yield Query(_DELETE, {**_owned(change.owner), "by_id": change.engine_id})
    return Done() if rows else Missing()


def remove_all(session_key: str) -> Query:
    """Remove the engines of a session that is removed."""
    return Query(_DELETE_OF_SESSION, {"by_key": session_key})
