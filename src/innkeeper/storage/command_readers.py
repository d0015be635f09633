"""Command readers: commands found, waiting, and held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, func, literal_column, select

from innkeeper.core.commands import Command, Hold
from innkeeper.core.identity import Caller
from innkeeper.storage import schema
from innkeeper.storage.command_records import COMMAND_COLUMNS, command_of
from innkeeper.storage.readers import Fetch, pair, visible
from innkeeper.storage.statements import Statement, unindexed

_table = schema.commands
_is_queued = (_table.c.status == literal_column("'queued'")) & _table.c.waits_for.is_(None)
_is_executing = _table.c.status == literal_column("'executing'")
_FIND = pair(
    select(*COMMAND_COLUMNS).where(
        _table.c.id == bindparam("by_id"),
        _table.c.session_key == bindparam("by_key"),
        _table.c.kind == literal_column("'command'"),
    ),
    _table,
)
_HAS_QUEUED = Statement(
    select(literal_column("1")).select_from(_table).where(_is_queued).limit(literal_column("1")), returns=True
)
_CANCELLED = Statement(
    select(_table.c.id).where(
        _table.c.worker == bindparam("by_worker"), _is_executing, _table.c.cancel_requested == literal_column("1")
    ),
    returns=True,
)
_HELD = Statement(
    select(*COMMAND_COLUMNS, _table.c.epoch).where(_table.c.worker == bindparam("by_worker"), _is_executing),
    returns=True,
)
_COUNT_QUEUED = Statement(select(func.count()).select_from(_table).where(_is_queued), returns=True)
_COUNT_EXECUTING = Statement(select(func.count()).select_from(_table).where(_is_executing), returns=True)

_SILENT: Mapping[str, Any] = {
    "parameters": literal_column("'{}'"),
    "metadata": literal_column("'{}'"),
    "result": literal_column("NULL"),
}
"""What stands for what was said to and by handlers, which may be long."""
_quiet_columns = [_SILENT[one.name].label(one.name) if one.name in _SILENT else one for one in COMMAND_COLUMNS]
_OWN_TRACE = pair(select(*_quiet_columns).where(_table.c.id == bindparam("by_id"), _table.c.trace_id.is_(None)), _table)
_OF_TRACE = pair(
    select(*_quiet_columns)
    .where(_table.c.trace_id == bindparam("by_trace"))
    .order_by(unindexed(_table.c.id))
    .limit(bindparam("limit")),
    _table,
)


class StoredCommands:
    """Implements `ports.readers.CommandReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def find(self, caller: Caller, session_key: str, command_id: str) -> Command | None:
        values = {**visible(caller), "by_id": command_id, "by_key": session_key}
        rows = await self._fetch(_FIND[caller.sees_all], values, is_quick=True)
        return command_of(rows[0]) if rows else None

    async def has_queued(self) -> bool:
        return bool(await self._fetch(_HAS_QUEUED, {}, is_quick=True))

    async def cancelled(self, worker: str) -> Sequence[str]:
        return [row[0] for row in await self._fetch(_CANCELLED, {"by_worker": worker}, is_quick=True)]

    async def held(self, worker: str) -> Sequence[tuple[Command, Hold]]:
        rows = await self._fetch(_HELD, {"by_worker": worker}, is_quick=True)
        commands = [(command_of(row[:-1]), row[-1]) for row in rows]
        return [(command, Hold(command.id, worker, epoch)) for command, epoch in commands]

    async def count_open(self) -> Sequence[tuple[str, int]]:
        queued = await self._fetch(_COUNT_QUEUED, {}, is_quick=True)
        executing = await self._fetch(_COUNT_EXECUTING, {}, is_quick=True)
        return [("queued", queued[0][0]), ("executing", executing[0][0])]

    async def of_trace(self, caller: Caller, trace_id: str, limit: int) -> Sequence[Command]:
        values = {**visible(caller), "by_id": f"cmd_{trace_id}", "by_trace": trace_id, "limit": limit}
        rows = [
            *await self._fetch(_OWN_TRACE[caller.sees_all], values, is_quick=True),
            *await self._fetch(_OF_TRACE[caller.sees_all], values),
        ]
        return [command_of(row) for row in rows[:limit]]
