"""Command records: commands as rows and back."""

from __future__ import annotations

from typing import Any, cast

from innkeeper.core.commands import MAX_TURN, Command, CommandError, CommandKind, CommandStatus, Priority
from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.records import json_text, loads
from innkeeper.storage.statements import Row

_APART = ("worker", "epoch")
_TURNS = MAX_TURN + 1
COMMAND_COLUMNS = tuple(column for column in schema.commands.c if column.name not in _APART)
_NAMES = tuple(column.name for column in COMMAND_COLUMNS)


def command_cells(command: Command, worker: str) -> dict[str, Any]:
    """The row of a command that is stored now; `worker` begins it at once where it is being executed."""
    is_begun = command.status is CommandStatus.EXECUTING
    return {
        "id": command.id,
        "organization": command.owner.organization,
        "owner": command.owner.user,
        "user_id": command.user_id,
        "session_key": command.session_key,
        "session_id": command.session_id,
        "kind": command.kind,
        "command_type": command.command_type,
        "parameters": json_text(command.parameters),
        "metadata": json_text(command.metadata),
        "handler": command.handler,
        "rank": (Priority.HIGH - command.priority) * _TURNS + min(command.turn, MAX_TURN),
        "timeout": round(command.timeout * 1_000_000),
        "depth": command.depth,
        "status": command.status.value,
        "waits_for": command.waits_for,
        "worker": worker if is_begun else "",
        "epoch": 1,
        "attempt": command.attempt,
        "cancel_requested": 0,
        "result": None,
        "error": None,
        "trace_id": command.own_trace_id,
        "parent_span": command.parent_span,
        "created_at": command.created_at,
        "started_at": command.started_at,
        "ended_at": None,
    }


def command_of(row: Row) -> Command:
    """The command in a row of `COMMAND_COLUMNS`."""
    cell = dict(zip(_NAMES, row, strict=True))
    return Command(
        id=cell["id"],
        owner=Owner(cell["organization"], cell["owner"]),
        user_id=cell["user_id"],
        session_key=cell["session_key"],
        session_id=cell["session_id"],
        command_type=cell["command_type"],
        created_at=Instant(cell["created_at"]),
        parameters=loads(cell["parameters"]),
        metadata=loads(cell["metadata"]),
        kind=cast("CommandKind", cell["kind"]),
        handler=cell["handler"],
        priority=Priority(Priority.HIGH - cell["rank"] // _TURNS),
        turn=cell["rank"] % _TURNS,
        timeout=cell["timeout"] / 1_000_000,
        depth=cell["depth"],
        status=CommandStatus(cell["status"]),
        waits_for=cell["waits_for"],
        attempt=cell["attempt"],
        is_cancelling=bool(cell["cancel_requested"]),
        result=None if cell["result"] is None else loads(cell["result"])[0],
        error=None if cell["error"] is None else _error_of(cell["error"]),
        own_trace_id=cell["trace_id"],
        parent_span=cell["parent_span"],
        started_at=cell["started_at"],
        ended_at=cell["ended_at"],
    )


def _error_of(text: str) -> CommandError:
    raw = loads(text)
    return CommandError(raw["code"], raw["message"], raw["details"])
