"""Session readers: sessions by what their callers call them, pages of them, and what was said in them.

Who sees everybody's finds its own sessions first; others' by their key, or the newest of those that are called so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, bindparam, literal_column, or_, select

from innkeeper.core.changes import Lineage
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.sessions import Session, StoredMessage
from innkeeper.storage import schema
from innkeeper.storage.history_readers import outputs_of, sessions_of
from innkeeper.storage.readers import Fetch, fetch_page, last_of, owned, page_of, visible
from innkeeper.storage.records import SESSION_COLUMNS, message_of, session_of, stored_message_of
from innkeeper.storage.statements import Row, Rows, Statement, unindexed

_sessions, _messages = schema.sessions, schema.messages
_is_recorded = _sessions.c.recorded == literal_column("1")


@cache
def _find_session(has_user: bool) -> Statement:
    query = select(*SESSION_COLUMNS).where(owned(_sessions), _sessions.c.id == bindparam("by_id"), _is_recorded)
    if has_user:
        return Statement(query.where(_sessions.c.user_id == bindparam("by_user")), returns=True)
    own = (_sessions.c.user_id == bindparam("by_owner")).desc()
    return Statement(query.order_by(own, _sessions.c.key.desc()).limit(literal_column("1")), returns=True)


_FIND_BY_KEY = Statement(
    select(*SESSION_COLUMNS).where(_sessions.c.key == bindparam("by_key"), _is_recorded), returns=True
)


def _newest_called(*others: ColumnElement[bool]) -> Statement:
    """Whosever it is. The index finds those that are called so; which of them is the newest, their rows tell."""
    query = select(*SESSION_COLUMNS).where(_sessions.c.id == bindparam("by_id"), _is_recorded, *others)
    query = query.order_by(unindexed(_sessions.c.key).desc()).limit(literal_column("1"))
    return Statement(query, returns=True)


_FIND_ANYBODYS = _newest_called()
_FIND_ANYBODYS_OF_USER = _newest_called(_sessions.c.user_id == bindparam("by_user"))


@cache
def _page(filters: frozenset[str], sees_all: bool) -> Statement:
    return page_of(select(*SESSION_COLUMNS).where(_is_recorded), _sessions, _sessions.c.key, filters, sees_all)


_LAST = last_of(_sessions.c.key)
PAGES_OF_ALL = tuple(_page(frozenset(filters), True) for filters in ((), ("user_id",), ("agent_name", "archived")))
"""Some of those that are made as they are asked for, for whoever looks at plans."""


@cache
def _conversation(spans: int, newest: bool, bounded: bool) -> Statement:
    """Messages of up to `spans` stretches of branches; bounded by position from below."""
    table = _messages
    stretches = or_(
        *(
            (table.c.branch == bindparam(f"branch_{index}")) & (table.c.position <= bindparam(f"upto_{index}"))
            for index in range(spans)
        )
    )
    query = select(table.c.position, table.c.run_id, table.c.internal, table.c.body, table.c.created_at).where(
        table.c.session_key == bindparam("by_key"), table.c.position > bindparam("after"), stretches
    )
    order = table.c.position.desc() if newest else table.c.position
    query = query.order_by(order)
    return Statement(query.limit(bindparam("limit")) if bounded else query, returns=True)


_SPANS_AT_ONCE = 200
"""Terms of one condition; SQLite's parser refuses a thousand."""

_HEAD = Statement(
    select(_sessions.c.head_branch, _sessions.c.head_position).where(_sessions.c.key == bindparam("by_key")),
    returns=True,
)
_BRANCHES = Statement(
    select(schema.branches.c.branch, schema.branches.c.parent_branch, schema.branches.c.fork_position).where(
        schema.branches.c.session_key == bindparam("by_key")
    ),
    returns=True,
)


_runs = schema.runs
_LAST_OF_RUN = Statement(
    select(_messages.c.session_key, _messages.c.branch, _messages.c.position)
    .select_from(_runs)
    .join(_messages, (_messages.c.session_key == _runs.c.session_key) & (_messages.c.run_id == bindparam("by_id")))
    .where(_runs.c.id == bindparam("by_id"), owned(_runs), _runs.c.recorded == literal_column("1"))
    .order_by(_messages.c.position.desc())
    .limit(literal_column("1")),
    returns=True,
)


class StoredSessions:
    """Implements `ports.readers.SessionReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def find(self, caller: Caller, session_id: str, user_id: str | None = None) -> Session | None:
        if caller.session_key is not None:
            return await self._find_bound(caller.session_key, session_id, user_id)
        values = {**visible(caller), "by_id": session_id, "by_user": user_id}
        rows = await self._fetch(_find_session(user_id is not None), values, is_quick=True)
        if not rows and caller.sees_all:
            session = await self._find_anybodys(caller, session_id, user_id)
            if session is not None:
                caller.reaches("session", session.id, session.owner)
            return session
        return session_of(rows[0]) if rows else None

    async def _find_bound(self, key: str, session_id: str, user_id: str | None) -> Session | None:
        """The one session that its caller may see, if that is what it asks for."""
        rows = await self._fetch(_FIND_BY_KEY, {"by_key": key}, is_quick=True)
        session = session_of(rows[0]) if rows else None
        if session is None or session.id != session_id or user_id not in (None, session.user_id):
            return None
        return session

    async def _find_anybodys(self, caller: Caller, name: str, user_id: str | None) -> Session | None:
        """That with this key; else, of all that are called so, the newest. There may be many, which are looked at."""
        session = await self._find_by_key(caller, name)
        if session is not None and user_id in (None, session.user_id):
            return session
        statement = _FIND_ANYBODYS if user_id is None else _FIND_ANYBODYS_OF_USER
        rows = await self._fetch(statement, {"by_id": name, "by_user": user_id})
        return session_of(rows[0]) if rows else None

    async def _find_by_key(self, caller: Caller, key: str) -> Session | None:
        rows = await self._fetch(_FIND_BY_KEY, {"by_key": key}, is_quick=True)
        session = session_of(rows[0]) if rows else None
        return session if session is not None and caller.may_see(session.owner) else None

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        user_id: str | None = None,
        agent_name: str | None = None,
        archived: bool | None = None,
    ) -> tuple[Sequence[Session], bool]:
        wanted = {
            "user_id": user_id,
            "agent_name": agent_name,
            "archived": None if archived is None else int(archived),
        }
        if after is not None:
            last = await self._find_by_key(caller, after) or await self.find(caller, after, user_id)
            wanted["after"] = "" if last is None else last.key
        rows = await fetch_page(self._fetch, caller, wanted, limit, _page, _LAST)
        return [session_of(row) for row in rows[:limit]], len(rows) > limit

    async def numbered(
        self, caller: Caller, user_id: str, *, limit: int, offset: int = 0
    ) -> tuple[Sequence[Session], int]:
        return await sessions_of(self._fetch, caller, user_id, limit=limit, offset=offset)

    async def outputs(self, session: Session) -> Mapping[str, int]:
        return await outputs_of(self._fetch, session)

    async def messages(
        self,
        session: Session,
        *,
        limit: int | None = None,
        after: int = 0,
        oldest_first: bool = False,
        before: int | None = None,
    ) -> Sequence[StoredMessage]:
        heads = await self._fetch(_HEAD, {"by_key": session.key}, is_quick=True)
        if not heads:
            return []
        ((branch, position),) = heads
        spans = [(branch, position)]
        if branch:
            spans = _walk(await self._fetch(_BRANCHES, {"by_key": session.key}), branch, position)
        if before is not None:
            spans = [(branch, min(upto, before - 1)) for branch, upto in spans]
        rows = await self._spans(session.key, spans, limit, after, newest=not oldest_first)
        return [stored_message_of(row) for row in rows]

    async def history(self, lineage: Lineage) -> Sequence[Message]:
        rows = await self._spans(lineage.session_key, lineage.spans, None, 0, lineage.head.depth <= 64)
        return [message_of(body, internal) for _, _, internal, body, _ in rows]

    async def until(self, caller: Caller, run_id: str) -> Sequence[Message] | None:
        values = {"by_organization": caller.owner.organization, "by_owner": caller.owner.user, "by_id": run_id}
        rows = await self._fetch(_LAST_OF_RUN, values, is_quick=True)
        if not rows:
            return None
        ((key, branch, position),) = rows
        spans = [(branch, position)]
        if branch:
            spans = _walk(await self._fetch(_BRANCHES, {"by_key": key}), branch, position)
        found = await self._spans(key, spans, None, 0)
        return [message_of(body, internal) for _, _, internal, body, _ in found]

    async def _spans(
        self,
        key: str,
        spans: Sequence[tuple[int, int]],
        limit: int | None,
        after: int,
        is_quick: bool = False,
        newest: bool = False,
    ) -> Rows:
        newest = newest and limit is not None
        rows: list[Any] = []
        for start in range(0, len(spans), _SPANS_AT_ONCE):
            some = spans[start : start + _SPANS_AT_ONCE]
            values: dict[str, Any] = {"by_key": key, "after": after, "limit": limit}
            for index, (branch, upto) in enumerate(some):
                values[f"branch_{index}"], values[f"upto_{index}"] = branch, upto
            statement = _conversation(len(some), newest, limit is not None)
            rows += await self._fetch(statement, values, is_quick=is_quick)
        rows.sort(key=_position)
        if limit is None or len(rows) <= limit:
            return rows
        return rows[-limit:] if newest else rows[:limit]


def _position(row: Row) -> int:
    position: int = row[0]
    return position


def _walk(rows: Rows, branch: int, position: int) -> list[tuple[int, int]]:
    parents = {child: (parent, fork) for child, parent, fork in rows}
    spans = [(branch, position)]
    while branch in parents:
        branch, fork = parents[branch]
        if fork == 0:
            break
        spans.append((branch, fork))
    return spans
