"""Engine readers: engines with the status of their last run, which is asked of the runs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, literal_column, select

from innkeeper.core.engines import STATUSES_OF, Engine, EngineStatus
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.runs import RunStatus
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch, owned, pair, visible
from innkeeper.storage.records import loads
from innkeeper.storage.statements import Row, Statement

_engines, _runs = schema.engines, schema.runs
_last_status = select(_runs.c.status).where(_runs.c.id == _engines.c.last_run_id).scalar_subquery()
_COLUMNS = (*_engines.c, _last_status.label("last_status"))
_NAMES = tuple(column.name for column in _COLUMNS)
_FIND = pair(select(*_COLUMNS).where(_engines.c.id == bindparam("by_id")), _engines)


def _has(status: EngineStatus) -> ColumnElement[bool]:
    wanted = [one for one in STATUSES_OF[status] if one is not None]
    if not wanted:
        return _last_status.is_(None)
    return _last_status.in_([literal_column(f"'{one.value}'") for one in wanted])


def _page(status: EngineStatus | None, *, of_session: bool, sees_all: bool) -> Statement:
    query: Select[Any] = select(*_COLUMNS).where(_engines.c.id < bindparam("before"))
    if not sees_all:
        query = query.where(owned(_engines))
    if of_session:
        query = query.where(_engines.c.session_key == bindparam("by_session"))
    if status is not None:
        query = query.where(_has(status))
    return Statement(query.order_by(_engines.c.id.desc()).limit(bindparam("limit")), returns=True)


_STATUSES = (None, *EngineStatus)
PAGES = tuple(_page(status, of_session=False, sees_all=False) for status in _STATUSES)
PAGES_OF_SESSION = tuple(_page(status, of_session=True, sees_all=False) for status in _STATUSES)
PAGES_OF_ALL = tuple(_page(status, of_session=False, sees_all=True) for status in _STATUSES)
PAGES_OF_ANY_SESSION = tuple(_page(status, of_session=True, sees_all=True) for status in _STATUSES)
_BEYOND_ALL = "g"
"""Sorts behind every id, which is hexadecimal."""


class StoredEngines:
    """Implements `ports.readers.EngineReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def find(self, caller: Caller, engine_id: str) -> Engine | None:
        rows = await self._fetch(_FIND[caller.sees_all], {**visible(caller), "by_id": engine_id}, is_quick=True)
        if not rows:
            return None
        engine = _engine_of(rows[0])
        caller.reaches("engine", engine.id, engine.owner)
        return engine

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        session_key: str | None = None,
        status: EngineStatus | None = None,
    ) -> tuple[Sequence[Engine], bool]:
        if caller.sees_all:
            pages = PAGES_OF_ALL if session_key is None else PAGES_OF_ANY_SESSION
        else:
            pages = PAGES if session_key is None else PAGES_OF_SESSION
        values = {
            **visible(caller),
            "before": _BEYOND_ALL if after is None else after,
            "by_session": session_key,
            "limit": limit + 1,
        }
        rows = await self._fetch(pages[_STATUSES.index(status)], values)
        return [_engine_of(row) for row in rows[:limit]], len(rows) > limit


def _engine_of(row: Row) -> Engine:
    cell = dict(zip(_NAMES, row, strict=True))
    status = cell["last_status"]
    return Engine(
        id=cell["id"],
        owner=Owner(cell["organization"], cell["owner"]),
        user_id=cell["user_id"],
        session_key=cell["session_key"],
        session_id=cell["session_id"],
        engine_type=cell["engine_type"],
        created_at=Instant(cell["created_at"]),
        model_name=cell["model_name"],
        configuration=loads(cell["configuration"]),
        last_run_id=cell["last_run_id"],
        last_status=None if status is None else RunStatus(status),
    )
