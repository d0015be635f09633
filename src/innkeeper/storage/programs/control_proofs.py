"""Control proofs: how to see afterwards that a change of the control plane was applied; see `programs.proofs`."""

from __future__ import annotations

from sqlalchemy import bindparam, select

from innkeeper.core.changes import Change
from innkeeper.core.control_changes import (
    AcceptCommands,
    AcceptedCommands,
    AddHandler,
    AddTool,
    Published,
    PublishEvent,
    TakeCommands,
    TakeDeadCommands,
    TakenCommands,
)
from innkeeper.core.outcomes import Done, Outcome
from innkeeper.storage import schema
from innkeeper.storage.statements import Query, Statement

_events, _commands, _tools, _handlers = schema.session_events, schema.commands, schema.tools, schema.handlers
_EVENT = Statement(
    select(_events.c.sequence).where(
        _events.c.session_key == bindparam("by_key"),
        _events.c.sequence == bindparam("by_sequence"),
        _events.c.event_type == bindparam("by_type"),
        _events.c.created_at == bindparam("by_created_at"),
    ),
    returns=True,
)
_COMMAND = Statement(
    select(_commands.c.id).where(
        _commands.c.id == bindparam("by_id"),
        _commands.c.worker == bindparam("by_worker"),
        _commands.c.epoch == bindparam("by_epoch"),
    ),
    returns=True,
)
_ACCEPTED = Statement(select(_commands.c.id).where(_commands.c.id == bindparam("by_id")), returns=True)
_TOOL = Statement(
    select(_tools.c.name).where(
        _tools.c.session_key == bindparam("by_key"),
        _tools.c.name == bindparam("by_name"),
        _tools.c.created_at == bindparam("by_created_at"),
    ),
    returns=True,
)
_HANDLER = Statement(
    select(_handlers.c.id).where(
        _handlers.c.session_key == bindparam("by_key"),
        _handlers.c.kind == bindparam("by_kind"),
        _handlers.c.type == bindparam("by_type"),
        _handlers.c.id == bindparam("by_id"),
    ),
    returns=True,
)


def control_proof(change: Change, outcome: Outcome) -> Query | None:
    """As `programs.proofs.proof`, for one change."""
    match change, outcome:
        case PublishEvent(), Published(event=event):
            values = {"by_key": event.session_key, "by_sequence": event.sequence, "by_type": event.event_type}
            return Query(_EVENT, {**values, "by_created_at": event.created_at})
        case AcceptCommands(), AcceptedCommands(commands=(first, *_)):
            return Query(_ACCEPTED, {"by_id": first.id})
        case TakeCommands() | TakeDeadCommands(), TakenCommands(commands=((_, hold), *_)):
            by = {"by_id": hold.command_id, "by_worker": hold.worker, "by_epoch": hold.epoch}
            return Query(_COMMAND, by)
        case AddTool(tool=tool), Done():
            by_name = {"by_key": tool.session_key, "by_name": tool.name}
            return Query(_TOOL, {**by_name, "by_created_at": tool.created_at})
        case AddHandler(handler=handler), Done():
            by_type = {"by_key": handler.session_key, "by_kind": handler.kind, "by_type": handler.type}
            return Query(_HANDLER, {**by_type, "by_id": handler.id})
        case _:
            return None
