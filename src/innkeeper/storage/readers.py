"""Readers: queries over either dialect. They know statements and records; `Fetch` knows the driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from sqlalchemy import BigInteger, ColumnElement, Select, and_, bindparam, case, exists, func, literal_column, select

from innkeeper.core.changes import Fence, Segment
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.injections import Injection
from innkeeper.core.runs import Plan, Run, RunStatus
from innkeeper.storage import schema
from innkeeper.storage.records import (
    INJECTION_COLUMNS,
    RUN_COLUMNS,
    injection_of,
    plan_of,
    run_of,
    segment_at,
    segment_of,
)
from innkeeper.storage.statements import Row, Rows, Statement, unindexed


class Fetch(Protocol):
    """Runs a reading statement. `is_quick` says that it touches a handful of rows by key."""

    async def __call__(self, statement: Statement, values: Mapping[str, Any], *, is_quick: bool = False) -> Rows: ...


def visible(caller: Caller) -> dict[str, str]:
    return {"by_organization": caller.owner.organization, "by_owner": caller.owner.user}


def owned(table: Any) -> Any:
    return (table.c.organization == bindparam("by_organization")) & (table.c.owner == bindparam("by_owner"))


def pair(query: Select[Any], table: Any) -> tuple[Statement, Statement]:
    """The statement for callers that see their own rows, and the one for those that see everybody's."""
    return Statement(query.where(owned(table)), returns=True), Statement(query, returns=True)


BEYOND_ALL = "s"
"""Sorts behind every key and id, in any collation: keys are hexadecimal, and ids of runs begin with run_."""

STRETCH = 20_000
"""Rows that one statement may pass over."""


def page_of(
    query: Select[Any], table: Any, key: ColumnElement[str], filters: frozenset[str], sees_all: bool
) -> Statement:
    """A page, newest first. Of everybody's rows a stretch of the primary key is walked, of an owner's its own index."""
    if not sees_all:
        query = query.where(owned(table))
    for name in sorted(filters - {"after"}):
        query = query.where(table.c[name] == bindparam(f"by_{name}"))
    if sees_all or "after" in filters:
        query = query.where(key < bindparam("after"))
    if _passes_over(filters, sees_all):
        query = query.where(key >= bindparam("floor"))
    return Statement(query.order_by(key.desc()).limit(bindparam("limit")), returns=True)


def _passes_over(filters: frozenset[str], sees_all: bool) -> bool:
    """Whether a page may pass over rows of anybody; what is of one session, an index finds."""
    return sees_all and bool(filters - {"after"}) and "session_key" not in filters


def last_of(key: ColumnElement[str]) -> Statement:
    """The last row of a stretch."""
    query = select(key).where(key < bindparam("after")).order_by(key.desc())
    return Statement(query.limit(literal_column("1")).offset(bindparam("passed")), returns=True)


async def fetch_page(
    fetch: Fetch,
    caller: Caller,
    wanted: Mapping[str, Any],
    limit: int,
    page: Callable[[frozenset[str], bool], Statement],
    last: Statement,
) -> Sequence[Row]:
    """The rows of a page, and one more where there is more. However many are passed over, no statement reads many."""
    given = {name: value for name, value in wanted.items() if value is not None}
    filters, values = frozenset(given), {f"by_{name}": value for name, value in given.items()}
    values |= {**visible(caller), "after": given.get("after", BEYOND_ALL), "limit": limit + 1, "floor": ""}
    statement = page(filters, caller.sees_all)
    if not _passes_over(filters, caller.sees_all):
        return await fetch(statement, values)
    rows: list[Row] = []
    while True:
        ends = await fetch(last, {**values, "passed": STRETCH - 1})
        values |= {"floor": ends[0][0] if ends else "", "limit": limit + 1 - len(rows)}
        rows += await fetch(statement, values)
        if not ends or len(rows) > limit:
            return rows
        values["after"] = values["floor"]


_runs, _segments = schema.runs, schema.segments


@cache
def _page(filters: frozenset[str], sees_all: bool) -> Statement:
    return page_of(select(*RUN_COLUMNS), _runs, _runs.c.id, filters, sees_all)


_LAST = last_of(_runs.c.id)
PAGES_OF_ALL = tuple(
    _page(frozenset(filters), sees_all=True) for filters in ((), ("session_key",), ("agent_name", "status"))
)
"""Some of those that are made as they are asked for, for whoever looks at plans."""

_FIND_RUN = pair(select(*RUN_COLUMNS).where(_runs.c.id == bindparam("by_id")), _runs)
_holds_next = (
    select(func.max(_segments.c.first_seq))
    .where(_segments.c.run_id == bindparam("by_run"), _segments.c.first_seq <= bindparam("after", type_=BigInteger) + 1)
    .scalar_subquery()
)
_SEGMENTS = Statement(
    select(_segments.c.first_seq, _segments.c.last_seq, _segments.c.data)
    .where(
        _segments.c.run_id == bindparam("by_run"),
        _segments.c.first_seq >= func.coalesce(_holds_next, literal_column("0")),
        _segments.c.last_seq > bindparam("after"),
    )
    .order_by(_segments.c.first_seq)
    .limit(bindparam("limit")),
    returns=True,
)
_NEAR = 256
"""Events between a reader and a run's end within which the end is read along; it may be as large as all the rest."""
_is_near = _runs.c.closing_seq <= bindparam("after", type_=BigInteger) + _NEAR
_ENDS = Statement(
    select(_runs.c.opening, case((_is_near, _runs.c.closing)), _runs.c.closing_seq).where(
        _runs.c.id == bindparam("by_run")
    ),
    returns=True,
)
_PLAN = Statement(select(_runs.c.plan).where(_runs.c.id == bindparam("by_run")), returns=True)
_CLOSING = Statement(select(_runs.c.closing).where(_runs.c.id == bindparam("by_run")), returns=True)
_is_open = _runs.c.ended_at.is_(None)
_earlier = _runs.alias("earlier")
_is_held = (_runs.c.worker == bindparam("by_worker")) & _is_open
_OWNED = Statement(select(*RUN_COLUMNS).where(_is_held).order_by(unindexed(_runs.c.id)), returns=True)
_OPEN_IN = Statement(
    select(*RUN_COLUMNS).where(_runs.c.session_key == bindparam("by_key"), _is_open).order_by(_runs.c.turn),
    returns=True,
)
_ID_AT, _WORKER_AT, _EPOCH_AT = (
    [column.name for column in RUN_COLUMNS].index(name) for name in ("id", "worker", "epoch")
)
_CANCELLED = Statement(
    select(_runs.c.id).where(_is_held, _runs.c.cancel_requested == literal_column("1")), returns=True
)
_READY = Statement(
    select(_runs.c.id).where(
        _is_held,
        _runs.c.status == literal_column("'queued'"),
        ~exists().where(
            _earlier.c.session_key == _runs.c.session_key,
            _earlier.c.ended_at.is_(None),
            _earlier.c.turn < _runs.c.turn,
        ),
    ),
    returns=True,
)
_COUNT_QUEUED = Statement(
    select(
        func.count(),
        func.count(
            case(
                (
                    and_(
                        _runs.c.organization == bindparam("by_organization"),
                        _runs.c.owner == bindparam("by_owner"),
                    ),
                    literal_column("1"),
                )
            )
        ),
    )
    .select_from(_runs)
    .where(_runs.c.status == literal_column("'queued'"), _runs.c.background == literal_column("1")),
    returns=True,
)
_HAS_QUEUED = Statement(
    select(literal_column("1"))
    .select_from(_runs)
    .where(
        _runs.c.status == literal_column("'queued'"),
        _runs.c.background == literal_column("1"),
        _runs.c.worker == literal_column("''"),
    )
    .limit(literal_column("1")),
    returns=True,
)
_SILENT: Mapping[str, Any] = {
    "input": literal_column("'[]'"),
    "output": literal_column("NULL"),
    "metadata": literal_column("'{}'"),
}
"""What stands for what was said in a run, which may be long."""
_quiet_columns = [_SILENT[one.name].label(one.name) if one.name in _SILENT else one for one in RUN_COLUMNS]
_OWN_TRACE = pair(select(*_quiet_columns).where(_runs.c.id == bindparam("by_id"), _runs.c.trace_id.is_(None)), _runs)
_OF_TRACE = pair(
    select(*_quiet_columns)
    .where(_runs.c.trace_id == bindparam("by_trace"))
    .order_by(unindexed(_runs.c.id))
    .limit(bindparam("limit")),
    _runs,
)
_injections = schema.injections
_FIND_INJECTION = pair(select(*INJECTION_COLUMNS).where(_injections.c.id == bindparam("by_id")), _injections)
_HAS_ACCEPTED = Statement(
    select(literal_column("1"))
    .select_from(_injections)
    .where(_injections.c.run_id == bindparam("by_run"), _injections.c.status == literal_column("'accepted'"))
    .limit(literal_column("1")),
    returns=True,
)
_PROCESSES = Statement(select(schema.workers.c.id, schema.workers.c.process), returns=True)


class StoredRuns:
    """Implements `ports.readers.RunReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def find(self, caller: Caller, run_id: str) -> Run | None:
        rows = await self._fetch(_FIND_RUN[caller.sees_all], {**visible(caller), "by_id": run_id}, is_quick=True)
        if not rows:
            return None
        run = run_of(rows[0])
        caller.reaches("run", run.id, run.owner)
        return run

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        session_key: str | None = None,
        user_id: str | None = None,
        agent_name: str | None = None,
        status: RunStatus | None = None,
    ) -> tuple[Sequence[Run], bool]:
        wanted = {
            "session_key": session_key,
            "user_id": user_id,
            "agent_name": agent_name,
            "status": None if status is None else status.value,
            "after": after,
        }
        rows = await fetch_page(self._fetch, caller, wanted, limit, _page, _LAST)
        return [run_of(row) for row in rows[:limit]], len(rows) > limit

    async def plan(self, run_id: str) -> Plan | None:
        rows = await self._fetch(_PLAN, {"by_run": run_id}, is_quick=True)
        return plan_of(rows[0][0]) if rows and rows[0][0] is not None else None

    async def segments(self, run_id: str, after: int, limit: int = 64) -> Sequence[Segment]:
        ends = await self._fetch(_ENDS, {"by_run": run_id, "after": after}, is_quick=True)
        if not ends:
            return []
        opening, closing, closing_seq = ends[0]
        found = [] if opening is None else [segment_at(1, opening)]
        if not found or found[0].last_seq <= after:
            found = []
        values = {"by_run": run_id, "after": after, "limit": limit - len(found)}
        found += [segment_of(row) for row in await self._fetch(_SEGMENTS, values, is_quick=True)]
        if closing_seq is not None and len(found) < limit:
            if closing is None:
                ((closing,),) = await self._fetch(_CLOSING, {"by_run": run_id}, is_quick=True) or [(None,)]
            if closing is not None:
                found.append(segment_at(closing_seq, closing))
        return [segment for segment in found if segment.last_seq > after]

    async def owned(self, worker: str) -> Sequence[tuple[Run, Fence]]:
        rows = await self._fetch(_OWNED, {"by_worker": worker})
        return [(run_of(row), Fence(row[_ID_AT], row[_WORKER_AT], row[_EPOCH_AT])) for row in rows]

    async def open_in(self, session_key: str) -> Sequence[Run]:
        return [run_of(row) for row in await self._fetch(_OPEN_IN, {"by_key": session_key}, is_quick=True)]

    async def cancelled(self, worker: str) -> Sequence[str]:
        return await self._ids(_CANCELLED, worker)

    async def ready(self, worker: str) -> Sequence[str]:
        return await self._ids(_READY, worker)

    async def _ids(self, statement: Statement, worker: str) -> Sequence[str]:
        return [row[0] for row in await self._fetch(statement, {"by_worker": worker}, is_quick=True)]

    async def has_queued(self) -> bool:
        return bool(await self._fetch(_HAS_QUEUED, {}, is_quick=True))

    async def count_queued(self, owner: Owner) -> tuple[int, int]:
        values = {"by_organization": owner.organization, "by_owner": owner.user}
        ((total, own),) = await self._fetch(_COUNT_QUEUED, values, is_quick=True)
        return int(total), int(own)

    async def of_trace(self, caller: Caller, trace_id: str, limit: int) -> Sequence[Run]:
        values = {**visible(caller), "by_id": f"run_{trace_id}", "by_trace": trace_id, "limit": limit}
        rows = [
            *await self._fetch(_OWN_TRACE[caller.sees_all], values, is_quick=True),
            *await self._fetch(_OF_TRACE[caller.sees_all], values, is_quick=not caller.sees_all),
        ]
        return [run_of(row) for row in rows[:limit]]


class StoredInjections:
    """Implements `ports.readers.InjectionReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def find(self, caller: Caller, injection_id: str) -> Injection | None:
        values = {**visible(caller), "by_id": injection_id}
        rows = await self._fetch(_FIND_INJECTION[caller.sees_all], values, is_quick=True)
        return injection_of(rows[0]) if rows else None

    async def has_accepted(self, run_id: str) -> bool:
        return bool(await self._fetch(_HAS_ACCEPTED, {"by_run": run_id}, is_quick=True))


class StoredWorkers:
    """Implements `ports.readers.WorkerReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def processes(self) -> Sequence[tuple[str, str]]:
        return [(id, process) for id, process in await self._fetch(_PROCESSES, {}, is_quick=True)]
