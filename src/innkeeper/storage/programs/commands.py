"""Commands as programs: accepted with their place in the session's log, taken from the queue, and ended once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Integer, bindparam, case, insert, literal_column, null, select, update

from innkeeper.core.changes import Fence
from innkeeper.core.commands import Command, CommandError, CommandStatus, Hold
from innkeeper.core.control_changes import (
    AcceptCommands,
    AcceptedCommands,
    CancelCommand,
    CancellingCommand,
    EndCommand,
    EndedCommand,
    Published,
    PublishEvent,
    ReleaseCommand,
    TakeCommands,
    TakeDeadCommands,
    TakenCommands,
)
from innkeeper.core.outcomes import Done, Missing, Stale
from innkeeper.core.session_events import COMMAND_ACCEPTED, COMMAND_ENDED, Note
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.command_records import COMMAND_COLUMNS, command_cells, command_of
from innkeeper.storage.programs import claims, session_events
from innkeeper.storage.records import json_text
from innkeeper.storage.statements import Program, Query, Statement

_table, _workers = schema.commands, schema.workers
_INSERT = Statement(insert(_table))
_NEXT = Statement(
    select(*COMMAND_COLUMNS)
    .where(_table.c.status == literal_column("'queued'"), _table.c.waits_for.is_(None))
    .order_by(_table.c.rank, _table.c.id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True),
    returns=True,
)
_TAKE = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"))
    .values(
        status=literal_column("'executing'"),
        worker=bindparam("new_worker"),
        epoch=_table.c.epoch + literal_column("1"),
        attempt=_table.c.attempt + bindparam("more_attempts", type_=Integer),
        started_at=bindparam("new_started_at"),
    )
    .returning(_table.c.epoch),
    returns=True,
)
_is_held = (
    (_table.c.id == bindparam("by_id"))
    & (_table.c.worker == bindparam("by_worker"))
    & (_table.c.epoch == bindparam("by_epoch"))
)
_is_executing = _table.c.status == literal_column("'executing'")
_ended: dict[str, Any] = {name: bindparam(f"new_{name}") for name in ("status", "result", "error", "ended_at")}
_kept_parameters = case(
    (_table.c.kind == literal_column("'reaction'"), literal_column("'{}'")), else_=_table.c.parameters
)
"""What a handler heard is in the session's log, and not kept once more for each that heard it."""
_END = Statement(
    update(_table)
    .where(_is_held, _is_executing)
    .values(_ended | {"parameters": _kept_parameters})
    .returning(_table.c.kind, _table.c.command_type, _table.c.started_at),
    returns=True,
)
_HAS_ENDED = Statement(
    select(_table.c.id).where(
        _is_held, _table.c.status == bindparam("by_status"), _table.c.ended_at == bindparam("by_ended_at")
    ),
    returns=True,
)
_END_QUEUED = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"), _table.c.status == literal_column("'queued'"))
    .values(_ended)
    .returning(_table.c.waits_for),
    returns=True,
)
_FREE = Statement(
    update(_table).where(_table.c.waits_for == bindparam("by_id")).values(waits_for=null()).returning(_table.c.id),
    returns=True,
)
_PASS_ON = Statement(
    update(_table).where(_table.c.waits_for == bindparam("by_id")).values(waits_for=bindparam("new_waits_for"))
)
"""Who waited for a command that never began waits for the one before it."""
_RELEASE = Statement(
    update(_table)
    .where(_is_held, _is_executing)
    .values(status=literal_column("'queued'"), worker=literal_column("''"), epoch=_table.c.epoch + literal_column("1"))
    .returning(_table.c.id),
    returns=True,
)
_FIND = Statement(
    select(*COMMAND_COLUMNS, _table.c.worker).where(
        _table.c.id == bindparam("by_id"),
        _table.c.organization == bindparam("by_organization"),
        _table.c.owner == bindparam("by_owner"),
        _table.c.kind == literal_column("'command'"),
    ),
    returns=True,
)
_ASK = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"), _is_executing)
    .values(cancel_requested=literal_column("1"))
    .returning(_table.c.worker),
    returns=True,
)
_DEAD = Statement(
    select(*COMMAND_COLUMNS)
    .select_from(_table.outerjoin(_workers, _workers.c.id == _table.c.worker))
    .where(_is_executing, _table.c.worker != bindparam("by_worker"), _workers.c.id.is_(None))
    .limit(bindparam("limit"))
    .with_for_update(of=_table, skip_locked=True),
    returns=True,
)
FORGET = Statement(_table.delete().where(_table.c.session_key == bindparam("by_key")))


def publish(change: PublishEvent, fence: Fence | None) -> Program:
    if change.claim is not None and change.owner is not None:
        known = yield from claims.find(change.owner, change.claim, change.note.created_at)
        if known is not None:
            return known
    cell = yield from session_events.lock(change.session_key)
    if cell is None:
        return Missing()
    yield from session_events.append(cell, (change.note,))
    event = session_events.placed(cell, change.note)
    shown = {
        "event_id": event.event_id,
        "sequence": event.sequence,
        "event_type": event.event_type,
        "data": event.data,
        "metadata": event.metadata,
        "source": event.source,
        "created_at": event.created_at,
    }
    begun = []
    for reaction in change.reactions:
        stored = replace(reaction, parameters=shown)
        yield Query(_INSERT, command_cells(stored, change.worker))
        if stored.status is CommandStatus.EXECUTING:
            begun.append((stored, Hold(stored.id, change.worker, 1)))
    if change.claim is not None and change.owner is not None:
        yield claims.write(change.owner, change.claim, event.event_id, change.note.created_at)
    return Published(event, tuple(begun))


def accept(change: AcceptCommands, fence: Fence | None) -> Program:
    first = change.commands[0]
    if change.claim is not None:
        known = yield from claims.find(first.owner, change.claim, change.now)
        if known is not None:
            return known
    cell = yield from session_events.lock(change.session_key)
    if cell is None:
        return Missing()
    for command in change.commands:
        yield Query(_INSERT, command_cells(command, change.worker))
    notes = [
        Note(COMMAND_ACCEPTED, change.now, {"command_id": command.id, "command_type": command.command_type})
        for command in change.commands
        if command.kind == "command"
    ]
    yield from session_events.append(cell, notes)
    if change.claim is not None:
        answer = " ".join(command.id for command in change.commands).encode()
        yield claims.write(first.owner, change.claim, first.id, change.now, answer)
    return AcceptedCommands(change.commands)


def take(change: TakeCommands, fence: Fence | None) -> Program:
    rows = yield Query(_NEXT, {"limit": change.limit})
    taken = []
    for row in rows:
        command = command_of(row)
        hold = yield from _take(command, change.worker, change.now, 1)
        begun = replace(command, status=CommandStatus.EXECUTING, attempt=command.attempt + 1, started_at=change.now)
        taken.append((begun, hold))
    return TakenCommands(tuple(taken))


def take_dead(change: TakeDeadCommands, fence: Fence | None) -> Program:
    rows = yield Query(_DEAD, {"by_worker": change.worker, "limit": change.limit})
    taken = []
    for row in rows:
        command = command_of(row)
        hold = yield from _take(command, change.worker, command.started_at, 0)
        taken.append((command, hold))
    return TakenCommands(tuple(taken))


def _take(command: Command, worker: str, started_at: Instant | None, more_attempts: int) -> Program:
    values = {"new_worker": worker, "new_started_at": started_at, "more_attempts": more_attempts}
    ((epoch,),) = yield Query(_TAKE, {"by_id": command.id, **values})
    return Hold(command.id, worker, epoch)


def _values(hold: Hold) -> dict[str, Any]:
    return {"by_id": hold.command_id, "by_worker": hold.worker, "by_epoch": hold.epoch}


def _end_cells(status: CommandStatus, result: object, error: CommandError | None, now: Instant) -> dict[str, Any]:
    told = None if error is None else {"code": error.code, "message": error.message, "details": dict(error.details)}
    return {
        "new_status": status.value,
        "new_result": None if result is None else json_text([result]),
        "new_error": None if told is None else json_text(told),
        "new_ended_at": now,
    }


def end(change: EndCommand, fence: Fence | None) -> Program:
    """Done again, after an answer that was lost, it changes nothing and answers the same."""
    cell = yield from session_events.lock(change.session_key)
    cells = _end_cells(change.status, change.result, change.error, change.now)
    rows = yield Query(_END, {**_values(change.hold), **cells})
    if not rows:
        again = {"by_status": change.status.value, "by_ended_at": change.now}
        known = yield Query(_HAS_ENDED, {**_values(change.hold), **again})
        return EndedCommand(freed=True) if known else Stale()
    ((kind, command_type, started_at),) = rows
    freed = yield Query(_FREE, {"by_id": change.hold.command_id})
    if cell is not None:
        notes = list(change.notes)
        if kind == "command":
            duration = None if started_at is None else max(0, change.now - started_at) / 1000
            notes.append(
                _ended_note(change.hold.command_id, command_type, change.status, change.now, change.error, duration)
            )
        yield from session_events.append(cell, notes)
    return EndedCommand(freed=bool(freed))


def _ended_note(
    command_id: str,
    command_type: str,
    status: CommandStatus,
    now: Instant,
    error: CommandError | None = None,
    duration: float | None = None,
) -> Note:
    told = {"command_id": command_id, "command_type": command_type, "status": status.value}
    failure = None if error is None else {"code": error.code, "message": error.message}
    return Note(COMMAND_ENDED, now, {**told, "error": failure, "duration_ms": duration})


def release(change: ReleaseCommand, fence: Fence | None) -> Program:
    rows = yield Query(_RELEASE, _values(change.hold))
    return Done() if rows else Stale()


def cancel(change: CancelCommand, fence: Fence | None) -> Program:
    by = {"by_id": change.command_id, "by_organization": change.owner.organization, "by_owner": change.owner.user}
    rows = yield Query(_FIND, by)
    if not rows:
        return Missing()
    command = command_of(rows[0][:-1])
    if command.status.is_terminal:
        return CancellingCommand(command)
    cell = yield from session_events.lock(command.session_key)
    cells = _end_cells(CommandStatus.CANCELLED, None, None, change.now)
    ended = yield Query(_END_QUEUED, {"by_id": command.id, **cells})
    if ended:
        freed = yield from _let_go(command.id, ended[0][0])
        if cell is not None:
            note = _ended_note(command.id, command.command_type, CommandStatus.CANCELLED, change.now)
            yield from session_events.append(cell, (note,))
        gone = replace(command, status=CommandStatus.CANCELLED, ended_at=change.now)
        return CancellingCommand(gone, freed=freed)
    asked = yield Query(_ASK, {"by_id": command.id})
    if asked:
        return CancellingCommand(replace(command, is_cancelling=True), asked[0][0])
    rows = yield Query(_FIND, by)
    return CancellingCommand(command_of(rows[0][:-1])) if rows else Missing()


def _let_go(command_id: str, before: str | None) -> Program:
    """Whether what waited for a command that never began may begin now, because nothing was before it."""
    if before is not None:
        yield Query(_PASS_ON, {"by_id": command_id, "new_waits_for": before})
        return False
    freed = yield Query(_FREE, {"by_id": command_id})
    return bool(freed)
