"""Log readers: pages of the log, newest first, each found by walking one index and looking at a bounded number of rows.

Where a level is asked for and nothing else narrows the walk, there is a walk for each level, and their rows are merged:
so what is rare is found without a look at what is frequent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, Integer, bindparam, literal_column, select

from innkeeper.core.identity import Caller, Owner
from innkeeper.core.logs import Level, LogFilter, LogPage, LogRecord, Source, id_at
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch
from innkeeper.storage.records import loads
from innkeeper.storage.statements import Row, Statement

LOOKED_AT = 50_000
"""Rows that one request looks at, where its filters may pass over many."""

_table = schema.log_records
_COLUMNS = (
    _table.c.id,
    _table.c.organization,
    _table.c.owner,
    _table.c.source,
    _table.c.level,
    _table.c.logger,
    _table.c.message,
    _table.c.created_at,
    _table.c.session_id,
    _table.c.request_id,
    _table.c.metadata,
)
_LATE = 1_000_000
"""Microseconds by which an id may be later than the instant of its record."""

_BEYOND_ALL = "g"
"""Sorts behind every id: they are hexadecimal."""

_FOREVER = 2**58
_IN = (_table.c.id < bindparam("below")) & (_table.c.id >= bindparam("floor"))
_WALKS: Mapping[str, tuple[ColumnElement[bool], ...]] = {
    "all": (),
    "owner": (_table.c.organization == bindparam("by_organization"), _table.c.owner == bindparam("by_owner")),
    "session": (_table.c.session_id == bindparam("by_session"),),
    "level": (_table.c.level == bindparam("by_level"),),
}
"""What is the same in all rows of a walk; each has an index in which its rows are in the order of their ids."""

_FITS = (
    _table.c.level >= bindparam("least"),
    _table.c.created_at >= bindparam("since"),
    _table.c.created_at < bindparam("until"),
    _table.c.source.in_([bindparam("source"), bindparam("other_source")]),
    (bindparam("any_session", type_=Integer) == literal_column("1")) | (_table.c.session_id == bindparam("session")),
    _table.c.message.ilike(bindparam("text"), escape="\\"),
)


def _page(walk: tuple[ColumnElement[bool], ...]) -> Statement:
    query = select(*_COLUMNS).where(*walk, _IN, *_FITS)
    return Statement(query.order_by(_table.c.id.desc()).limit(bindparam("limit")), returns=True)


def _last(walk: tuple[ColumnElement[bool], ...]) -> Statement:
    query = select(_table.c.id).where(*walk, _IN).order_by(_table.c.id.desc())
    return Statement(query.limit(literal_column("1")).offset(bindparam("passed")), returns=True)


PAGES = tuple(_page(walk) for walk in _WALKS.values())
LASTS = tuple(_last(walk) for walk in _WALKS.values())
"""The last row that is looked at in a walk."""

_NAMES = tuple(_WALKS)
_AFTER_NEWEST = Statement(
    select(_table.c.created_at)
    .where(_table.c.id < bindparam("below"))
    .order_by(_table.c.id.desc())
    .limit(literal_column("1"))
    .offset(bindparam("passed")),
    returns=True,
)


class StoredLogs:
    """Implements `ports.readers.LogReader`."""

    def __init__(self, fetch: Fetch, *, looked_at: int = LOOKED_AT) -> None:
        self._fetch = fetch
        self._looked_at = looked_at

    async def page(
        self, caller: Caller, wanted: LogFilter, *, limit: int, after: str | None = None, sees_all: bool = False
    ) -> LogPage:
        values = {**_values(wanted, after), "limit": limit + 1}
        values |= {"by_organization": caller.owner.organization, "by_owner": caller.owner.user}
        walk, levels = _walk(wanted, sees_all)
        rows: list[Row] = []
        ends: list[str] = []
        for level in levels:
            told = {**values, "by_level": level}
            if _passes_over(wanted, walk):
                ends += (last := await self._last(walk, told, self._looked_at // len(levels)))
                told["floor"] = max([told["floor"], *last])
            rows += await self._fetch(PAGES[_NAMES.index(walk)], told)
        return _merged(rows, max(ends, default=None), limit)

    async def _last(self, walk: str, values: Mapping[str, Any], looked_at: int) -> list[str]:
        rows = await self._fetch(LASTS[_NAMES.index(walk)], {**values, "passed": max(looked_at, 1) - 1})
        return [row[0] for row in rows]

    async def older_than_newest(self, count: int) -> Instant | None:
        rows = await self._fetch(_AFTER_NEWEST, {"below": _BEYOND_ALL, "passed": count})
        return Instant(rows[0][0]) if rows else None


def _walk(wanted: LogFilter, sees_all: bool) -> tuple[str, Sequence[int]]:
    """Which walk, and the levels for each of which it is done; the walks that have no level are done once."""
    # By session would be shorter, but others may have sessions of that name, and how many is nobody's business.
    if not sees_all:
        return "owner", (0,)
    if wanted.session_id is not None:
        return "session", (0,)
    if wanted.level is not None and wanted.level > Level.DEBUG:
        return "level", [int(level) for level in Level if level >= wanted.level]
    return "all", (0,)


def _passes_over(wanted: LogFilter, walk: str) -> bool:
    """Whether rows of the walk may be looked at in vain."""
    by_level = walk != "level" and wanted.level is not None and wanted.level > Level.DEBUG
    by_session = walk == "owner" and wanted.session_id is not None
    return by_level or by_session or wanted.text is not None or wanted.source is not None


def _values(wanted: LogFilter, after: str | None) -> dict[str, Any]:
    until = _FOREVER if wanted.until is None else wanted.until
    return {
        "below": min(after or _BEYOND_ALL, id_at(Instant(until + _LATE))),
        "floor": "" if wanted.since is None else id_at(wanted.since),
        "least": int(wanted.level or 0),
        "since": -_FOREVER if wanted.since is None else wanted.since,
        "until": until,
        "source": wanted.source or "server",
        "other_source": wanted.source or "client",
        "any_session": int(wanted.session_id is None),
        "by_session": wanted.session_id,
        "session": wanted.session_id,
        "text": "%" if wanted.text is None else f"%{_literally(wanted.text)}%",
    }


def _literally(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _merged(rows: list[Row], end: str | None, limit: int) -> LogPage:
    """The newest of the rows of several walks, none of which was looked at beyond `end`."""
    found = sorted((row for row in rows if end is None or row[0] >= end), key=_id, reverse=True)
    records = tuple(_record_of(row) for row in found[:limit])
    return LogPage(records, records[-1].id if len(found) > limit else end)


def _id(row: Row) -> str:
    found: str = row[0]
    return found


def _record_of(row: Row) -> LogRecord:
    id, organization, owner, source, level, logger, message, created_at, session_id, request_id, metadata = row
    return LogRecord(
        id=id,
        owner=Owner(organization, owner),
        source=cast("Source", source),
        level=Level(level),
        logger=logger,
        message=message,
        created_at=Instant(created_at),
        session_id=session_id,
        request_id=request_id,
        metadata=loads(metadata),
    )
