"""Source readers: clients' tools and handlers, and what their code has put aside."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, select

from innkeeper.core.sources import HandlerKind, SourceHandler, SourceTool
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch
from innkeeper.storage.records import loads, plain
from innkeeper.storage.statements import Row, Statement

_tools, _handlers, _state = schema.tools, schema.handlers, schema.session_state
_TOOLS = Statement(
    select(_tools).where(_tools.c.session_key == bindparam("by_key")).order_by(_tools.c.name), returns=True
)
_TOOL = Statement(
    select(_tools).where(_tools.c.session_key == bindparam("by_key"), _tools.c.name == bindparam("by_name")),
    returns=True,
)
_of_kind = (_handlers.c.session_key == bindparam("by_key")) & (_handlers.c.kind == bindparam("by_kind"))
_HANDLERS = Statement(select(_handlers).where(_of_kind).order_by(_handlers.c.type, _handlers.c.number), returns=True)
_HANDLERS_OF_TYPE = Statement(
    select(_handlers).where(_of_kind, _handlers.c.type == bindparam("by_type")).order_by(_handlers.c.number),
    returns=True,
)
_STATE = Statement(
    select(_state.c.value).where(_state.c.session_key == bindparam("by_key"), _state.c.name == bindparam("by_name")),
    returns=True,
)


class StoredSources:
    """Implements `ports.readers.SourceReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def tools(self, session_key: str) -> Sequence[SourceTool]:
        return [_tool_of(row) for row in await self._fetch(_TOOLS, {"by_key": session_key}, is_quick=True)]

    async def tool(self, session_key: str, name: str) -> SourceTool | None:
        rows = await self._fetch(_TOOL, {"by_key": session_key, "by_name": plain(name)}, is_quick=True)
        return _tool_of(rows[0]) if rows else None

    async def handlers(self, session_key: str, kind: HandlerKind, type: str | None = None) -> Sequence[SourceHandler]:
        values = {"by_key": session_key, "by_kind": kind, "by_type": type}
        rows = await self._fetch(_HANDLERS if type is None else _HANDLERS_OF_TYPE, values, is_quick=True)
        return [_handler_of(row) for row in rows]

    async def state(self, session_key: str, name: str) -> object:
        rows = await self._fetch(_STATE, {"by_key": session_key, "by_name": plain(name)}, is_quick=True)
        return loads(rows[0][0])[0] if rows else None


def _tool_of(row: Row) -> SourceTool:
    session_key, name, description, parameters, function, source, created_at = row
    return SourceTool(session_key, name, description, loads(parameters), function, source, Instant(created_at))


def _handler_of(row: Row) -> SourceHandler:
    session_key, kind, type, _, id, function, source, created_at = row
    return SourceHandler(id, session_key, kind, type, function, source, Instant(created_at))
