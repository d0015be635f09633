"""Source readers: clients' tools and handlers, and what their code has put aside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from sqlalchemy import bindparam, select

from innkeeper.core.sources import HandlerDeclaration, HandlerKind, SourceHandler, SourceTool, ToolDeclaration
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch
from innkeeper.storage.records import loads, plain
from innkeeper.storage.statements import Row, Statement

_tools, _handlers, _state = schema.tools, schema.handlers, schema.session_state
_TOOL_COLUMNS = (_tools.c.session_key, _tools.c.name, _tools.c.description, _tools.c.parameters, _tools.c.created_at)
_TOOLS = Statement(
    select(*_TOOL_COLUMNS).where(_tools.c.session_key == bindparam("by_key")).order_by(_tools.c.name), returns=True
)
_TOOL = Statement(
    select(*_TOOL_COLUMNS, _tools.c.function, _tools.c.source).where(
        _tools.c.session_key == bindparam("by_key"), _tools.c.name == bindparam("by_name")
    ),
    returns=True,
)
_HANDLER_COLUMNS = (
    _handlers.c.id,
    _handlers.c.session_key,
    _handlers.c.kind,
    _handlers.c.type,
    _handlers.c.created_at,
)
_of_kind = (_handlers.c.session_key == bindparam("by_key")) & (_handlers.c.kind == bindparam("by_kind"))
_of_type = _of_kind & (_handlers.c.type == bindparam("by_type"))
_HANDLERS = Statement(
    select(*_HANDLER_COLUMNS).where(_of_kind).order_by(_handlers.c.type, _handlers.c.number), returns=True
)
_HANDLERS_OF_TYPE = Statement(select(*_HANDLER_COLUMNS).where(_of_type).order_by(_handlers.c.number), returns=True)
_HANDLER = Statement(
    select(*_HANDLER_COLUMNS, _handlers.c.function, _handlers.c.source).where(
        _of_type, _handlers.c.id == bindparam("by_id")
    ),
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

    async def tools(self, session_key: str) -> Sequence[ToolDeclaration]:
        rows = await self._fetch(_TOOLS, {"by_key": session_key}, is_quick=True)
        return [ToolDeclaration(*_tool_cells(row)) for row in rows]

    async def tool(self, session_key: str, name: str) -> SourceTool | None:
        rows = await self._fetch(_TOOL, {"by_key": session_key, "by_name": plain(name)}, is_quick=True)
        return SourceTool(*_tool_cells(rows[0]), *rows[0][5:]) if rows else None

    async def handlers(
        self, session_key: str, kind: HandlerKind, type: str | None = None
    ) -> Sequence[HandlerDeclaration]:
        values = {"by_key": session_key, "by_kind": kind}
        if type is None:
            rows = await self._fetch(_HANDLERS, values, is_quick=True)
        else:
            rows = await self._fetch(_HANDLERS_OF_TYPE, {**values, "by_type": plain(type)}, is_quick=True)
        return [HandlerDeclaration(*_handler_cells(row)) for row in rows]

    async def handler(self, session_key: str, kind: HandlerKind, type: str, handler_id: str) -> SourceHandler | None:
        values = {"by_key": session_key, "by_kind": kind, "by_type": plain(type), "by_id": plain(handler_id)}
        rows = await self._fetch(_HANDLER, values, is_quick=True)
        return SourceHandler(*_handler_cells(rows[0]), *rows[0][5:]) if rows else None

    async def state(self, session_key: str, name: str) -> object:
        rows = await self._fetch(_STATE, {"by_key": session_key, "by_name": plain(name)}, is_quick=True)
        return loads(rows[0][0])[0] if rows else None


def _tool_cells(row: Row) -> tuple[str, str, str, dict[str, object], Instant]:
    session_key, name, description, parameters, created_at = row[:5]
    return session_key, name, description, loads(parameters), Instant(created_at)


def _handler_cells(row: Row) -> tuple[str, str, HandlerKind, str, Instant]:
    id, session_key, kind, type, created_at = row[:5]
    return id, session_key, cast("HandlerKind", kind), type, Instant(created_at)
