"""Log records as programs: stored many at a time, and dropped when they are old. What runs tell is in `logs`.

Invariant: records are found by their ids, which are in the order of time; so a batch is known by its first one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from sqlalchemy import bindparam, delete, insert, select

from innkeeper.core.changes import Fence
from innkeeper.core.control_changes import ForgetLogs, ForgottenLogs, KeepLogs
from innkeeper.core.logs import LogRecord, id_at
from innkeeper.core.outcomes import Done
from innkeeper.storage import schema
from innkeeper.storage.records import dumps, plain
from innkeeper.storage.statements import Program, Query, Statement

_table = schema.log_records
_AT_ONCE = (64, 16, 4, 1)
"""Rows of one statement: few statements for any number of rows, and few kinds of them."""

FIND = Statement(select(_table.c.id).where(_table.c.id == bindparam("by_id")), returns=True)
_OLD = Statement(
    select(_table.c.id).where(_table.c.id < bindparam("before")).order_by(_table.c.id).limit(bindparam("limit")),
    returns=True,
)
_FORGET = Statement(delete(_table).where(_table.c.id >= bindparam("first"), _table.c.id <= bindparam("last")))


@cache
def _insert(count: int) -> Statement:
    names = [column.name for column in _table.c]
    rows = [{name: bindparam(f"{name}_{index}", type_=_table.c[name].type) for name in names} for index in range(count)]
    return Statement(insert(_table).values(rows))


def keep(change: KeepLogs, fence: Fence | None) -> Program:
    if not change.records or (yield Query(FIND, {"by_id": change.records[0].id})):
        return Done()
    for some in _portions(change.records):
        values: dict[str, Any] = {}
        for index, record in enumerate(some):
            values |= {f"{name}_{index}": value for name, value in _cells(record).items()}
        yield Query(_insert(len(some)), values)
    return Done()


def _portions(records: Sequence[LogRecord]) -> Iterator[Sequence[LogRecord]]:
    start = 0
    for size in _AT_ONCE:
        while len(records) - start >= size:
            yield records[start : start + size]
            start += size


def _cells(record: LogRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "organization": record.owner.organization,
        "owner": record.owner.user,
        "source": record.source,
        "level": int(record.level),
        "logger": plain(record.logger),
        "message": plain(record.message),
        "session_id": None if record.session_id is None else plain(record.session_id),
        "request_id": None if record.request_id is None else plain(record.request_id),
        "metadata": dumps(record.metadata),
        "created_at": record.created_at,
    }


def forget(change: ForgetLogs, fence: Fence | None) -> Program:
    rows = yield Query(_OLD, {"before": id_at(change.before), "limit": change.limit})
    if rows:
        yield Query(_FORGET, {"first": rows[0][0], "last": rows[-1][0]})
    return ForgottenLogs(len(rows))
