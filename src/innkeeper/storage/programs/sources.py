"""Sources as programs: clients' tools, handlers and state, each change while its session is held."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, func, insert, select, update

from innkeeper.core.changes import Fence
from innkeeper.core.control_changes import AddHandler, AddTool, RemoveHandlers, RemoveTool, SetState
from innkeeper.core.errors import HandlerConflict, TooBusy, ToolConflict
from innkeeper.core.outcomes import Done, Missing
from innkeeper.core.sources import MAX_HANDLERS, MAX_STATE_NAMES, MAX_TOOLS
from innkeeper.storage import schema
from innkeeper.storage.programs import session_events
from innkeeper.storage.records import dumps, plain
from innkeeper.storage.statements import Program, Query, Statement

_tools, _handlers, _state = schema.tools, schema.handlers, schema.session_state
_COUNT_TOOLS = Statement(
    select(func.count()).select_from(_tools).where(_tools.c.session_key == bindparam("by_key")), returns=True
)
_FIND_TOOL = Statement(
    select(_tools.c.name).where(_tools.c.session_key == bindparam("by_key"), _tools.c.name == bindparam("by_name")),
    returns=True,
)
_INSERT_TOOL = Statement(insert(_tools))
_DELETE_TOOL = Statement(
    delete(_tools)
    .where(_tools.c.session_key == bindparam("by_key"), _tools.c.name == bindparam("by_name"))
    .returning(_tools.c.name),
    returns=True,
)
_COUNT_HANDLERS = Statement(
    select(func.count()).select_from(_handlers).where(_handlers.c.session_key == bindparam("by_key")), returns=True
)
_of_type = (
    (_handlers.c.session_key == bindparam("by_key"))
    & (_handlers.c.kind == bindparam("by_kind"))
    & (_handlers.c.type == bindparam("by_type"))
)
_LAST_HANDLER = Statement(select(func.max(_handlers.c.number)).where(_of_type), returns=True)
_INSERT_HANDLER = Statement(insert(_handlers))
_DELETE_HANDLERS = Statement(delete(_handlers).where(_of_type).returning(_handlers.c.id), returns=True)
_of_name = (_state.c.session_key == bindparam("by_key")) & (_state.c.name == bindparam("by_name"))
_COUNT_STATE = Statement(
    select(func.count()).select_from(_state).where(_state.c.session_key == bindparam("by_key")), returns=True
)
_UPDATE_STATE = Statement(
    update(_state)
    .where(_of_name)
    .values(value=bindparam("new_value"), updated_at=bindparam("new_updated_at"))
    .returning(_state.c.name),
    returns=True,
)
_INSERT_STATE = Statement(insert(_state))
_DELETE_STATE = Statement(delete(_state).where(_of_name))
FORGET = tuple(
    Statement(delete(table).where(table.c.session_key == bindparam("by_key"))) for table in (_tools, _handlers, _state)
)
"""What goes with a session."""


def add_tool(change: AddTool, fence: Fence | None) -> Program:
    tool = change.tool
    if (yield from session_events.lock(tool.session_key)) is None:
        return Missing()
    by_key = {"by_key": tool.session_key}
    if (yield Query(_FIND_TOOL, {**by_key, "by_name": tool.name})):
        raise ToolConflict(f"Tool {tool.name!r} is registered in this session already.", param="name")
    ((count,),) = yield Query(_COUNT_TOOLS, by_key)
    if count >= MAX_TOOLS:
        raise TooBusy(f"A session may have {MAX_TOOLS} tools; unregister one first.")
    yield Query(
        _INSERT_TOOL,
        {
            "session_key": tool.session_key,
            "name": tool.name,
            "description": plain(tool.description),
            "parameters": dumps(tool.parameters),
            "function": tool.function,
            "source": plain(tool.source),
            "created_at": tool.created_at,
        },
    )
    return Done()


def remove_tool(change: RemoveTool, fence: Fence | None) -> Program:
    gone = yield Query(_DELETE_TOOL, {"by_key": change.session_key, "by_name": plain(change.name)})
    return Done() if gone else Missing()


def add_handler(change: AddHandler, fence: Fence | None) -> Program:
    handler = change.handler
    if (yield from session_events.lock(handler.session_key)) is None:
        return Missing()
    by_key = {"by_key": handler.session_key}
    ((last,),) = yield Query(_LAST_HANDLER, {**by_key, "by_kind": handler.kind, "by_type": handler.type})
    if last is not None and handler.kind == "command":
        raise HandlerConflict(
            f"A handler for {handler.type} is registered in this session already.", param="command_type"
        )
    ((count,),) = yield Query(_COUNT_HANDLERS, by_key)
    if count >= MAX_HANDLERS:
        raise TooBusy(f"A session may have {MAX_HANDLERS} handlers; unregister one first.")
    yield Query(
        _INSERT_HANDLER,
        {
            "session_key": handler.session_key,
            "kind": handler.kind,
            "type": handler.type,
            "number": (last or 0) + 1,
            "id": handler.id,
            "function": handler.function,
            "source": plain(handler.source),
            "created_at": handler.created_at,
        },
    )
    return Done()


def remove_handlers(change: RemoveHandlers, fence: Fence | None) -> Program:
    by = {"by_key": change.session_key, "by_kind": change.kind, "by_type": plain(change.type)}
    gone = yield Query(_DELETE_HANDLERS, by)
    return Done() if gone else Missing()


def set_state(change: SetState, fence: Fence | None) -> Program:
    by = {"by_key": change.session_key, "by_name": plain(change.name)}
    if change.value is None:
        yield Query(_DELETE_STATE, by)
        return Done()
    if (yield from session_events.lock(change.session_key)) is None:
        return Missing()
    value = dumps([change.value])
    if (yield Query(_UPDATE_STATE, {**by, "new_value": value, "new_updated_at": change.now})):
        return Done()
    ((count,),) = yield Query(_COUNT_STATE, {"by_key": change.session_key})
    if count >= MAX_STATE_NAMES:
        raise TooBusy(f"A session may keep {MAX_STATE_NAMES} values; set one to None first.")
    cells = {"session_key": change.session_key, "name": by["by_name"], "value": value, "updated_at": change.now}
    yield Query(_INSERT_STATE, cells)
    return Done()
