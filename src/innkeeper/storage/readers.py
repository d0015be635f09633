"""Readers: queries over either dialect. They know statements and records; `Fetch` knows the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from sqlalchemy import BigInteger, Select, bindparam, exists, func, literal_column, or_, select

from innkeeper.core.changes import Fence, Lineage, Segment
from innkeeper.core.identity import Caller
from innkeeper.core.injections import Injection
from innkeeper.core.messages import Message
from innkeeper.core.runs import Run, RunStatus
from innkeeper.core.sessions import Session, StoredMessage
from innkeeper.storage import schema
from innkeeper.storage.records import (
    INJECTION_COLUMNS,
    RUN_COLUMNS,
    SESSION_COLUMNS,
    injection_of,
    message_of,
    run_of,
    segment_at,
    segment_of,
    session_of,
    stored_message_of,
)
from innkeeper.storage.statements import Row, Rows, Statement, unindexed


class Fetch(Protocol):
    """Runs a reading statement. `is_quick` says that it touches a handful of rows by key."""

    async def __call__(self, statement: Statement, values: Mapping[str, Any], *, is_quick: bool = False) -> Rows: ...


def _visible(caller: Caller) -> Mapping[str, str]:
    return {"by_organization": caller.owner.organization, "by_owner": caller.owner.user}


def _owned(table: Any) -> Any:
    return (table.c.organization == bindparam("by_organization")) & (table.c.owner == bindparam("by_owner"))


_sessions, _runs, _messages, _segments = schema.sessions, schema.runs, schema.messages, schema.segments


@cache
def _find_session(has_user: bool) -> Statement:
    query = select(*SESSION_COLUMNS).where(
        _owned(_sessions), _sessions.c.id == bindparam("by_id"), _sessions.c.recorded == literal_column("1")
    )
    if has_user:
        return Statement(query.where(_sessions.c.user_id == bindparam("by_user")), returns=True)
    own = (_sessions.c.user_id == bindparam("by_owner")).desc()
    return Statement(query.order_by(own, _sessions.c.key.desc()).limit(literal_column("1")), returns=True)


_FIND_BOUND = Statement(select(*SESSION_COLUMNS).where(_sessions.c.key == bindparam("by_key")), returns=True)


@cache
def _page(kind: str, filters: frozenset[str]) -> Statement:
    table, columns, key = (
        (_sessions, SESSION_COLUMNS, _sessions.c.key) if kind == "sessions" else (_runs, RUN_COLUMNS, _runs.c.id)
    )
    query: Select[Any] = select(*columns).where(_owned(table))
    if kind == "sessions":
        query = query.where(_sessions.c.recorded == literal_column("1"))
    for name in sorted(filters - {"after"}):
        query = query.where(table.c[name] == bindparam(f"by_{name}"))
    if "after" in filters:
        query = query.where(key < bindparam("after"))
    return Statement(query.order_by(key.desc()).limit(bindparam("limit")), returns=True)


@cache
def _conversation(spans: int, newest: bool, bounded: bool) -> Statement:
    """Messages of up to `spans` stretches of branches; bounded by position from below."""
    table = _messages
    stretches = or_(
        *(
            (table.c.branch == bindparam(f"branch_{index}")) & (table.c.position <= bindparam(f"upto_{index}"))
            for index in range(spans)
        )
    )
    query = select(table.c.position, table.c.run_id, table.c.internal, table.c.body, table.c.created_at).where(
        table.c.session_key == bindparam("by_key"), table.c.position > bindparam("after"), stretches
    )
    order = table.c.position.desc() if newest else table.c.position
    query = query.order_by(order)
    return Statement(query.limit(bindparam("limit")) if bounded else query, returns=True)


_SPANS_AT_ONCE = 200
"""Terms of one condition; SQLite's parser refuses a thousand."""

_HEAD = Statement(
    select(_sessions.c.head_branch, _sessions.c.head_position).where(_sessions.c.key == bindparam("by_key")),
    returns=True,
)
_BRANCHES = Statement(
    select(schema.branches.c.branch, schema.branches.c.parent_branch, schema.branches.c.fork_position).where(
        schema.branches.c.session_key == bindparam("by_key")
    ),
    returns=True,
)
_FIND_RUN = Statement(select(*RUN_COLUMNS).where(_owned(_runs), _runs.c.id == bindparam("by_id")), returns=True)
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
_ENDS = Statement(
    select(_runs.c.opening, _runs.c.closing, _runs.c.closing_seq).where(_runs.c.id == bindparam("by_run")), returns=True
)
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
_OWN_TRACE = Statement(
    select(*_quiet_columns).where(_owned(_runs), _runs.c.id == bindparam("by_id"), _runs.c.trace_id.is_(None)),
    returns=True,
)
_OF_TRACE = Statement(
    select(*_quiet_columns)
    .where(_owned(_runs), _runs.c.trace_id == bindparam("by_trace"))
    .order_by(_runs.c.id)
    .limit(bindparam("limit")),
    returns=True,
)
_injections = schema.injections
_FIND_INJECTION = Statement(
    select(*INJECTION_COLUMNS).where(_owned(_injections), _injections.c.id == bindparam("by_id")), returns=True
)
_HAS_ACCEPTED = Statement(
    select(literal_column("1"))
    .select_from(_injections)
    .where(_injections.c.run_id == bindparam("by_run"), _injections.c.status == literal_column("'accepted'"))
    .limit(literal_column("1")),
    returns=True,
)
_PROCESSES = Statement(select(schema.workers.c.id, schema.workers.c.process), returns=True)


class StoredSessions:
    """Implements `ports.readers.SessionReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def find(self, caller: Caller, session_id: str, user_id: str | None = None) -> Session | None:
        if caller.session_key is not None:
            return await self._find_bound(caller.session_key, session_id, user_id)
        values = {**_visible(caller), "by_id": session_id, "by_user": user_id}
        rows = await self._fetch(_find_session(user_id is not None), values, is_quick=True)
        return session_of(rows[0]) if rows else None

    async def _find_bound(self, key: str, session_id: str, user_id: str | None) -> Session | None:
        """The one session that its caller may see, if that is what it asks for."""
        rows = await self._fetch(_FIND_BOUND, {"by_key": key}, is_quick=True)
        session = session_of(rows[0]) if rows else None
        if session is None or session.id != session_id or user_id not in (None, session.user_id):
            return None
        return session

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        user_id: str | None = None,
        agent_name: str | None = None,
        archived: bool | None = None,
    ) -> tuple[Sequence[Session], bool]:
        wanted = {
            "user_id": user_id,
            "agent_name": agent_name,
            "archived": None if archived is None else int(archived),
        }
        if after is not None:
            last = await self.find(caller, after, user_id)
            wanted["after"] = "" if last is None else last.key
        rows = await _fetch_page(self._fetch, "sessions", caller, wanted, limit)
        return [session_of(row) for row in rows[:limit]], len(rows) > limit

    async def messages(
        self, session: Session, *, limit: int | None = None, after: int = 0, oldest_first: bool = False
    ) -> Sequence[StoredMessage]:
        heads = await self._fetch(_HEAD, {"by_key": session.key}, is_quick=True)
        if not heads:
            return []
        ((branch, position),) = heads
        spans = [(branch, position)]
        if branch:
            spans = _walk(await self._fetch(_BRANCHES, {"by_key": session.key}), branch, position)
        rows = await self._spans(session.key, spans, limit, after, newest=not oldest_first)
        return [stored_message_of(row) for row in rows]

    async def history(self, lineage: Lineage) -> Sequence[Message]:
        rows = await self._spans(lineage.session_key, lineage.spans, None, 0, lineage.head.depth <= 64)
        return [message_of(body, internal) for _, _, internal, body, _ in rows]

    async def _spans(
        self,
        key: str,
        spans: Sequence[tuple[int, int]],
        limit: int | None,
        after: int,
        is_quick: bool = False,
        newest: bool = False,
    ) -> Rows:
        newest = newest and limit is not None
        rows: list[Any] = []
        for start in range(0, len(spans), _SPANS_AT_ONCE):
            some = spans[start : start + _SPANS_AT_ONCE]
            values: dict[str, Any] = {"by_key": key, "after": after, "limit": limit}
            for index, (branch, upto) in enumerate(some):
                values[f"branch_{index}"], values[f"upto_{index}"] = branch, upto
            statement = _conversation(len(some), newest, limit is not None)
            rows += await self._fetch(statement, values, is_quick=is_quick)
        rows.sort(key=_position)
        if limit is None or len(rows) <= limit:
            return rows
        return rows[-limit:] if newest else rows[:limit]


def _position(row: Row) -> int:
    position: int = row[0]
    return position


def _walk(rows: Rows, branch: int, position: int) -> list[tuple[int, int]]:
    parents = {child: (parent, fork) for child, parent, fork in rows}
    spans = [(branch, position)]
    while branch in parents:
        branch, fork = parents[branch]
        if fork == 0:
            break
        spans.append((branch, fork))
    return spans


async def _fetch_page(fetch: Fetch, kind: str, caller: Caller, wanted: Mapping[str, Any], limit: int) -> Rows:
    filters = {name: value for name, value in wanted.items() if value is not None}
    values = {f"by_{name}": value for name, value in filters.items()}
    values |= {**_visible(caller), "after": filters.get("after"), "limit": limit + 1}
    return await fetch(_page(kind, frozenset(filters)), values)


class StoredRuns:
    """Implements `ports.readers.RunReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def find(self, caller: Caller, run_id: str) -> Run | None:
        rows = await self._fetch(_FIND_RUN, {**_visible(caller), "by_id": run_id}, is_quick=True)
        return run_of(rows[0]) if rows else None

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        session_key: str | None = None,
        agent_name: str | None = None,
        status: RunStatus | None = None,
    ) -> tuple[Sequence[Run], bool]:
        wanted = {
            "session_key": session_key,
            "agent_name": agent_name,
            "status": None if status is None else status.value,
            "after": after,
        }
        rows = await _fetch_page(self._fetch, "runs", caller, wanted, limit)
        return [run_of(row) for row in rows[:limit]], len(rows) > limit

    async def segments(self, run_id: str, after: int, limit: int = 64) -> Sequence[Segment]:
        ends = await self._fetch(_ENDS, {"by_run": run_id}, is_quick=True)
        if not ends:
            return []
        opening, closing, closing_seq = ends[0]
        found = [] if opening is None else [segment_at(1, opening)]
        if not found or found[0].last_seq <= after:
            found = []
        values = {"by_run": run_id, "after": after, "limit": limit - len(found)}
        found += [segment_of(row) for row in await self._fetch(_SEGMENTS, values, is_quick=True)]
        if closing is not None and len(found) < limit:
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

    async def of_trace(self, caller: Caller, trace_id: str, limit: int) -> Sequence[Run]:
        values = {**_visible(caller), "by_id": f"run_{trace_id}", "by_trace": trace_id, "limit": limit}
        rows = [
            *await self._fetch(_OWN_TRACE, values, is_quick=True),
            *await self._fetch(_OF_TRACE, values, is_quick=True),
        ]
        return [run_of(row) for row in rows[:limit]]


class StoredInjections:
    """Implements `ports.readers.InjectionReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def find(self, caller: Caller, injection_id: str) -> Injection | None:
        rows = await self._fetch(_FIND_INJECTION, {**_visible(caller), "by_id": injection_id}, is_quick=True)
        return injection_of(rows[0]) if rows else None

    async def has_accepted(self, run_id: str) -> bool:
        return bool(await self._fetch(_HAS_ACCEPTED, {"by_run": run_id}, is_quick=True))


class StoredWorkers:
    """Implements `ports.readers.WorkerReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def processes(self) -> Sequence[tuple[str, str]]:
        return [(id, process) for id, process in await self._fetch(_PROCESSES, {}, is_quick=True)]
