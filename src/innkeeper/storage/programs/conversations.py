"""Conversations as programs: where a turn's messages go in the session's tree, and their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, insert, literal_column, select

from innkeeper.core.changes import AppendMessages, Fence, Lineage
from innkeeper.core.identity import Owner
from innkeeper.core.messages import Message, chain
from innkeeper.core.outcomes import Appended, Missing
from innkeeper.core.sessions import Head, StoredMessage
from innkeeper.core.times import Instant
from innkeeper.core.transcripts import HistoryMode, Joined, Transcript, join
from innkeeper.storage import schema
from innkeeper.storage.programs import claims, sessions
from innkeeper.storage.records import dumps, message_body
from innkeeper.storage.statements import Program, Query, Statement

_table = schema.messages
INSERT = Statement(insert(_table))
_LINKS = Statement(
    select(_table.c.chain, _table.c.position, _table.c.branch, _table.c.depth)
    .where(_table.c.session_key == bindparam("by_key"))
    .order_by(_table.c.position.desc()),
    returns=True,
)
LAST_OF_RUN = Statement(
    select(_table.c.position, _table.c.branch, _table.c.chain, _table.c.depth)
    .where(_table.c.session_key == bindparam("by_key"), _table.c.run_id == bindparam("by_run"))
    .order_by(_table.c.position.desc())
    .limit(literal_column("1")),
    returns=True,
)
"""Found from the newest message backwards: most turns follow the last one."""
_INSERT_BRANCH = Statement(insert(schema.branches))
_BRANCHES = Statement(
    select(schema.branches.c.branch, schema.branches.c.parent_branch, schema.branches.c.fork_position).where(
        schema.branches.c.session_key == bindparam("by_key")
    ),
    returns=True,
)

Cells = dict[str, Any]


def head_of(cell: Mapping[str, Any]) -> Head:
    return Head(cell["head_position"], cell["head_branch"], cell["head_chain"], cell["message_count"])


def place(
    cell: Cells,
    messages: Sequence[Message],
    now: Instant,
    run_id: str | None,
    visible: Message | None = None,
    *,
    is_unseen: bool = False,
) -> Program:
    """Add messages at the head. The last one's chain link tells of `visible`, where one is given.

    Those that are `is_unseen`, because another client sent them, take no part in the chain.
    """
    stored = []
    for index, message in enumerate(messages):
        is_last = index == len(messages) - 1
        if is_unseen:
            link = cell["head_chain"]
        elif visible is not None:
            link = chain(cell["head_chain"], visible) if is_last else cell["head_chain"]
        else:
            link = chain(cell["head_chain"], message)
        cell["last_position"] += 1
        cell["message_count"] += 1
        cell["head_position"], cell["head_chain"] = cell["last_position"], link
        cell["last_message_at"] = now
        yield Query(INSERT, _message_cells(cell, message, now, run_id))
        stored.append(StoredMessage(cell["last_position"], run_id, message, now))
    return stored


def _message_cells(cell: Cells, message: Message, now: Instant, run_id: str | None) -> Cells:
    return {
        "session_key": cell["key"],
        "position": cell["head_position"],
        "branch": cell["head_branch"],
        "depth": cell["message_count"],
        "run_id": run_id,
        "internal": int(message.is_internal),
        "body": message_body(message),
        "chain": cell["head_chain"],
        "created_at": now,
    }


def continue_with(
    cell: Cells,
    transcript: Transcript,
    mode: HistoryMode,
    now: Instant,
    run_id: str,
    injected: Sequence[Message] = (),
    follows: str | None = None,
) -> Program:
    """Join a client's transcript to the stored conversation and store what is new of it, after what was injected.

    One that `follows` a run goes on after the last message of that, in a branch where the conversation has gone on.
    """
    known: dict[str, Head] = {}
    if transcript.before and mode == "auto" and transcript.links[-1] != cell["head_chain"]:
        rows = yield Query(_LINKS, {"by_key": cell["key"]})
        known = {link: Head(position, branch, link, depth) for link, position, branch, depth in rows}
    joined = join(transcript, mode, head_of(cell), known)
    if follows is not None:
        joined = Joined((yield from _end_of(cell, follows)), transcript.before + transcript.new)
    told = _fingerprint(transcript.instructions)
    if joined.onto is not None and cell["message_count"]:
        yield from _fork(cell, joined.onto)
        cell["instructions"] = ""
    if told and told != cell["instructions"]:
        yield from place(cell, transcript.instructions, now, run_id)
        cell["instructions"] = told
    if injected:
        yield from place(cell, injected, now, run_id, is_unseen=True)
    yield from place(cell, joined.added, now, run_id)


def _end_of(cell: Mapping[str, Any], run_id: str) -> Program:
    """The last message of a run of this session; `None` if that is the head, or if the run has said nothing."""
    rows = yield Query(LAST_OF_RUN, {"by_key": cell["key"], "by_run": run_id})
    if not rows or rows[0][0] == cell["head_position"]:
        return None
    ((position, branch, link, depth),) = rows
    return Head(position, branch, link, depth)


def _fork(cell: Cells, onto: Head) -> Program:
    cell["last_branch"] += 1
    yield Query(
        _INSERT_BRANCH,
        {
            "session_key": cell["key"],
            "branch": cell["last_branch"],
            "parent_branch": onto.branch,
            "fork_position": onto.position,
        },
    )
    cell["head_branch"] = cell["last_branch"]
    cell["head_position"], cell["head_chain"], cell["message_count"] = onto.position, onto.chain, onto.depth


def _fingerprint(instructions: Sequence[Message]) -> str:
    if not instructions:
        return ""
    told = dumps([[message.role, message.content] for message in instructions])
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def lineage_of(cell: Mapping[str, Any]) -> Program:
    """Which messages lead to the head."""
    head = head_of(cell)
    if head.branch == 0:
        return Lineage(cell["key"], ((0, head.position),), head)
    rows = yield Query(_BRANCHES, {"by_key": cell["key"]})
    parents = {branch: (parent, fork) for branch, parent, fork in rows}
    spans, branch = [(head.branch, head.position)], head.branch
    while branch:
        branch, fork = parents[branch]
        if fork == 0:
            break
        spans.append((branch, fork))
    return Lineage(cell["key"], tuple(reversed(spans)), head)


def append(change: AppendMessages, fence: Fence | None) -> Program:
    rows = yield Query(sessions.LOCK, {"by_key": change.session_key})
    if not rows:
        return Missing()
    cell = sessions.cells(rows[0])
    owner = Owner(cell["organization"], cell["owner"])
    if change.claim is not None:
        known = yield from claims.find(owner, change.claim, change.now)
        if known is not None:
            return known
    stored = yield from place(cell, change.messages, change.now, None)
    cell["updated_at"] = change.now
    yield sessions.advance(cell)
    if change.claim is not None:
        yield claims.write(owner, change.claim, change.session_key, change.now, b"%d" % stored[0].position)
    return Appended(tuple(stored))
