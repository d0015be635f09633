"""Event readers: pages of a session's log, found by key wherever they lie and however long the log is.

An instant, and an event's number among those of its type, are found by halving: the log is ordered by both.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, bindparam, case, cast, func, literal_column, select

from innkeeper.core.session_events import EventFilter, SessionEvent, Source
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch
from innkeeper.storage.records import loads
from innkeeper.storage.statements import Row, Statement

_events, _sessions, _runs = schema.session_events, schema.sessions, schema.runs
_COLUMNS = (
    _events.c.sequence,
    _events.c.event_type,
    _events.c.data,
    _events.c.source,
    _events.c.created_at,
    _events.c.run_id,
    _events.c.metadata,
)
_key = _events.c.session_key == bindparam("by_key")
_type = _events.c.event_type == bindparam("by_type")
_LENGTH = Statement(select(_sessions.c.sequence).where(_sessions.c.key == bindparam("by_key")), returns=True)
_COUNT_OF_TYPE = Statement(select(func.max(_events.c.ordinal)).where(_key, _type), returns=True)
_FIND = Statement(select(*_COLUMNS).where(_key, _events.c.sequence == bindparam("by_sequence")), returns=True)


@cache
def _page(place: str) -> Statement:
    """The rows whose `place`, in the log or among those of a type, is in a stretch."""
    column = _events.c[place]
    wanted = [_key, column > bindparam("low"), column <= bindparam("high")]
    if place == "ordinal":
        wanted.append(_type)
    return Statement(select(*_COLUMNS).where(*wanted).order_by(column).limit(bindparam("limit")), returns=True)


PAGE, PAGE_OF_TYPE = _page("sequence"), _page("ordinal")
PAGE_BYTES = 4 * 1024 * 1024
"""What a page may hold of events' texts; one of more is there alone."""
_FIRST_ROWS = 16


def _halving(place: str, probe: ColumnElement[Any], *, includes: bool) -> Statement:
    """The last `place`, from 1 to `count`, at which the rising `probe` is below `bound`, or, `includes`, equal."""
    low = cast(literal_column("0"), BigInteger).label("low")
    search = select(low, bindparam("count", type_=BigInteger).label("high")).cte("search", recursive=True)
    middle = (search.c.low + search.c.high + literal_column("1", BigInteger)) // literal_column("2", BigInteger)
    wanted = [_key, _events.c[place] == middle]
    if place == "ordinal":
        wanted.append(_type)
    found = select(probe).where(*wanted).correlate(search).scalar_subquery()
    bound = bindparam("bound", type_=BigInteger)
    is_below = found <= bound if includes else found < bound
    step = select(
        case((is_below, middle), else_=search.c.low),
        case((is_below, search.c.high), else_=middle - literal_column("1", BigInteger)),
    ).where(search.c.low < search.c.high)
    search = search.union_all(step)
    return Statement(select(search.c.low).where(search.c.low >= search.c.high), returns=True)


LAST_BEFORE = _halving("sequence", _events.c.created_at, includes=False)
LAST_OF_TYPE_UP_TO = _halving("ordinal", _events.c.sequence, includes=True)
_OF_RUN = Statement(
    select(*_COLUMNS)
    .select_from(_events.join(_runs, _runs.c.id == bindparam("by_run")))
    .where(
        _key,
        _events.c.sequence >= _runs.c.started_sequence,
        _events.c.sequence > bindparam("after", type_=BigInteger),
        _events.c.sequence <= func.coalesce(_runs.c.ended_sequence, literal_column(str(2**62))),
        _events.c.run_id == bindparam("by_run"),
    )
    .order_by(_events.c.sequence)
    .limit(bindparam("limit")),
    returns=True,
)


class StoredEvents:
    """Implements `ports.readers.EventReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def page(
        self, session: Session, wanted: EventFilter, *, limit: int, offset: int = 0
    ) -> tuple[Sequence[SessionEvent], int]:
        low, high = await self._stretch(session, wanted)
        values: dict[str, Any] = {"by_key": session.key}
        statement = PAGE
        if wanted.event_type is not None:
            statement, values["by_type"] = PAGE_OF_TYPE, wanted.event_type
            count = await self._number({"by_key": session.key, "by_type": wanted.event_type}, _COUNT_OF_TYPE)
            told = {"by_key": session.key, "by_type": wanted.event_type, "count": count}
            low = await self._number({**told, "bound": low}, LAST_OF_TYPE_UP_TO)
            high = await self._number({**told, "bound": high}, LAST_OF_TYPE_UP_TO)
        total = max(0, high - low)
        if offset >= total:
            return [], total
        rows = await self._rows(statement, {**values, "high": high}, low + offset, min(limit, total - offset))
        return [_event_of(session, row) for row in rows], total

    async def _rows(self, statement: Statement, values: Mapping[str, Any], low: int, limit: int) -> Sequence[Row]:
        """So many beyond `low`, or fewer that make a page; read in growing parts, as nobody knows how long they are."""
        rows: list[Row] = []
        size, some = 0, _FIRST_ROWS
        while len(rows) < limit:
            wanted = {**values, "low": low + len(rows), "limit": min(some, limit - len(rows))}
            found = await self._fetch(statement, wanted, is_quick=some == _FIRST_ROWS)
            for row in found:
                size += _size_of(row)
                if rows and size > PAGE_BYTES:
                    return rows
                rows.append(row)
            if not found:
                break
            some *= 2
        return rows

    async def _stretch(self, session: Session, wanted: EventFilter) -> tuple[int, int]:
        """Between which sequences the events lie that are neither too old nor too new."""
        low, high = wanted.after, await self._number({"by_key": session.key}, _LENGTH)
        told = {"by_key": session.key, "count": high}
        if wanted.since is not None:
            low = max(low, await self._number({**told, "bound": wanted.since}, LAST_BEFORE))
        if wanted.until is not None:
            high = min(high, await self._number({**told, "bound": wanted.until}, LAST_BEFORE))
        return low, high

    async def _number(self, values: dict[str, Any], statement: Statement) -> int:
        rows = await self._fetch(statement, values, is_quick=True)
        return rows[0][0] or 0 if rows else 0

    async def find(self, session: Session, sequence: int) -> SessionEvent | None:
        rows = await self._fetch(_FIND, {"by_key": session.key, "by_sequence": sequence}, is_quick=True)
        return _event_of(session, rows[0]) if rows else None

    async def beyond(self, session: Session, after: int, limit: int) -> Sequence[SessionEvent]:
        values = {"by_key": session.key, "low": after, "high": 2**62, "limit": limit}
        rows = await self._fetch(PAGE, values, is_quick=limit <= 1000)
        return [_event_of(session, row) for row in rows]

    async def of_run(
        self, session_key: str, run_id: str, *, after: int = 0, limit: int = 10_000
    ) -> Sequence[SessionEvent]:
        wanted = {"by_key": session_key, "by_run": run_id, "after": after, "limit": limit}
        rows = await self._fetch(_OF_RUN, wanted)
        return [_row_of(session_key, "", row) for row in rows]


def _size_of(row: Row) -> int:
    _, _, data, _, _, _, metadata = row
    return len(data) + len(metadata)


def _event_of(session: Session, row: Row) -> SessionEvent:
    return _row_of(session.key, session.id, row)


def _row_of(session_key: str, session_id: str, row: Row) -> SessionEvent:
    sequence, event_type, data, source, created_at, run_id, metadata = row
    return SessionEvent(
        session_key=session_key,
        session_id=session_id,
        sequence=sequence,
        event_type=event_type,
        data=loads(data),
        source=typing.cast("Source", source),
        created_at=Instant(created_at),
        run_id=run_id,
        metadata=loads(metadata),
    )
