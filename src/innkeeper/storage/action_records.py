"""Action records: rows of actions to values and back."""

from __future__ import annotations

from dataclasses import asdict

from innkeeper.core.actions import Action, ActionStatus, Answer, StoredAction
from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.records import dumps, loads
from innkeeper.storage.statements import Row

ACTION_COLUMNS = tuple(schema.actions.c)
_NAMES = tuple(column.name for column in ACTION_COLUMNS)


def action_of(row: Row) -> StoredAction:
    """The action in a row of `ACTION_COLUMNS`."""
    cell = dict(zip(_NAMES, row, strict=True))
    return StoredAction(
        run_id=cell["run_id"],
        session_id=cell["session_id"],
        agent_name=cell["agent_name"],
        owner=Owner(cell["organization"], cell["owner"]),
        user_id=cell["user_id"],
        action=Action(cell["id"], cell["kind"], cell["name"], loads(cell["arguments"])),
        status=ActionStatus(cell["status"]),
        created_at=Instant(cell["created_at"]),
        expires_at=Instant(cell["expires_at"]),
        answer=None if cell["answer"] is None else Answer(**loads(cell["answer"])),
        decided_by=cell["decided_by"],
        decided_at=cell["decided_at"],
    )


def answer_text(answer: Answer) -> str:
    return dumps(asdict(answer))
