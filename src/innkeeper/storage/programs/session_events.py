"""Session events as programs: a session's own log grows by rows, in the commit of what they tell of.

Whoever appends holds the session's row, in which the log's last `sequence` and instant stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import bindparam, func, insert, literal_column, select, update

from innkeeper.core.session_events import RUN_ENDED, RUN_RESUMED, RUN_STARTED, Note, SessionEvent, note_of
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.records import dumps, json_text
from innkeeper.storage.statements import Program, Query, Statement

_table, _sessions = schema.session_events, schema.sessions
_same_type = _table.alias("same_type")
_next_ordinal = (
    select(func.coalesce(func.max(_same_type.c.ordinal), literal_column("0")) + literal_column("1"))
    .where(
        _same_type.c.session_key == bindparam("session_key"),
        _same_type.c.event_type == bindparam("event_type"),
    )
    .scalar_subquery()
)
_given: dict[str, Any] = {one.name: bindparam(one.name) for one in _table.c if one.name != "ordinal"}
_INSERT = Statement(insert(_table).values(ordinal=_next_ordinal, **_given))
_INSERT_FIRST = Statement(insert(_table).values(ordinal=literal_column("1"), **_given))
_LOCK = Statement(
    select(_sessions.c.sequence, _sessions.c.last_event_at, _sessions.c.recorded, _sessions.c.id)
    .where(_sessions.c.key == bindparam("by_key"))
    .with_for_update(),
    returns=True,
)
_WORDED_HERE = frozenset({RUN_STARTED, RUN_RESUMED, RUN_ENDED})
"""Events whose data holds nothing but what this server words: text and small numbers, which need no care."""
_MOVE = Statement(
    update(_sessions)
    .where(_sessions.c.key == bindparam("by_key"))
    .values(sequence=bindparam("new_sequence"), last_event_at=bindparam("new_last_event_at"))
)


def log(cell: dict[str, Any], notes: Iterable[Note]) -> Program:
    """Append to the log of the session in `cell`, which the caller writes back; a log that is not kept stays empty."""
    if not cell["recorded"]:
        return
    for note in notes:
        statement = _INSERT if cell["sequence"] else _INSERT_FIRST
        cell["sequence"] += 1
        cell["last_event_at"] = max(note.created_at, cell["last_event_at"])
        yield Query(
            statement,
            {
                "session_key": cell["key"],
                "sequence": cell["sequence"],
                "event_type": note.event_type,
                "run_id": note.run_id,
                "data": _data_text(note),
                "metadata": json_text(note.metadata) if note.metadata else "{}",
                "source": note.source,
                "created_at": cell["last_event_at"],
            },
        )


def _data_text(note: Note) -> str:
    if note.event_type in _WORDED_HERE:
        return dumps(note.data)
    return json_text(note.data) if note.data else "{}"


def lock(session_key: str) -> Program:
    """Hold a session to append to its log: its cell, or `None` where it does not exist (any more)."""
    rows = yield Query(_LOCK, {"by_key": session_key})
    if not rows:
        return None
    sequence, last_event_at, recorded, session_id = rows[0]
    return {
        "key": session_key,
        "sequence": sequence,
        "last_event_at": last_event_at,
        "recorded": recorded,
        "id": session_id,
    }


def move(cell: dict[str, Any]) -> Query:
    """Write back what `log` has moved in a cell of `lock`."""
    return Query(
        _MOVE,
        {"by_key": cell["key"], "new_sequence": cell["sequence"], "new_last_event_at": cell["last_event_at"]},
    )


def append(cell: dict[str, Any], notes: Iterable[Note]) -> Program:
    """Log and write back at once."""
    yield from log(cell, notes)
    yield move(cell)


def placed(cell: dict[str, Any], note: Note) -> SessionEvent:
    """The event that `note`, the last one logged, has become."""
    return SessionEvent(
        session_key=cell["key"],
        session_id=cell["id"],
        sequence=cell["sequence"],
        event_type=note.event_type,
        data=note.data,
        source=note.source,
        created_at=Instant(cell["last_event_at"]),
        run_id=note.run_id,
        metadata=note.metadata,
    )


def noted(run_id: str, payloads: Sequence[bytes], first_seq: int, now: Instant) -> list[Note]:
    """What the log tells of events that the store itself added to a run's log."""
    notes = (note_of(run_id, first_seq + index, data, now) for index, data in enumerate(payloads))
    return [note for note in notes if note is not None]


def run_started(run_id: str, agent_name: str, endpoint: str, now: Instant) -> Note:
    return Note(RUN_STARTED, now, {"agent_name": agent_name, "endpoint": endpoint, "status": "running"}, run_id=run_id)


def run_resumed(run_id: str, agent_name: str, attempt: int, now: Instant) -> Note:
    return Note(RUN_RESUMED, now, {"agent_name": agent_name, "attempt": attempt}, run_id=run_id)


def run_ended(run_id: str, agent_name: str, told: dict[str, object], now: Instant) -> Note:
    return Note(RUN_ENDED, now, {"agent_name": agent_name, **told}, run_id=run_id)
