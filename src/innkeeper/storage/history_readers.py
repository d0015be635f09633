"""History readers: an end user's sessions by number, with how many there are, and what each run in a session put out.

A place is what one index holds in order: the sessions of one tenant that are its own, or those of its organization that
were made on behalf of somebody else. It is walked in stretches, so that no statement reads many rows; all of it costs
as much as that tenant, or that end user, has sessions, whatever others have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, bindparam, case, func, literal_column, select

from innkeeper.core.identity import Caller
from innkeeper.core.sessions import Session
from innkeeper.storage import schema
from innkeeper.storage.readers import BEYOND_ALL, STRETCH, Fetch, owned
from innkeeper.storage.records import SESSION_COLUMNS, session_of
from innkeeper.storage.statements import Statement
from innkeeper.storage.user_readers import of_end_user, of_owner

_sessions, _runs = schema.sessions, schema.runs
_is_recorded = _sessions.c.recorded == literal_column("1")
_is_users = _sessions.c.user_id == bindparam("by_user")


class _Place(NamedTuple):
    """`owner` is `None` for whatever was made on the user's behalf, whoever made it."""

    organization: str
    owner: str | None
    user: str

    @property
    def kind(self) -> str:
        if self.owner is None:
            return "anybodys"
        return "own" if self.owner == self.user else "named"


@cache
def _within(kind: str) -> tuple[ColumnElement[bool], ...]:
    """What the index of a place finds in order. Among one's own are those of end users, which are passed over."""
    if kind == "own":
        return owned(_sessions), _is_recorded
    others = (
        _is_users,
        _sessions.c.organization == bindparam("by_organization"),
        _sessions.c.user_id != _sessions.c.owner,
    )
    return others if kind == "anybodys" else (*others, _sessions.c.owner == bindparam("by_owner"))


@cache
def _counting(kind: str) -> Statement:
    """Of the next rows of a place: how many are the user's, and the last of them all."""
    rows = (
        select(_sessions.c.key, _sessions.c.user_id, _sessions.c.recorded)
        .where(*_within(kind), _sessions.c.key < bindparam("before"))
        .order_by(_sessions.c.key.desc())
        .limit(bindparam("stretch"))
        .subquery("stretch")
    )
    is_one = (rows.c.user_id == bindparam("by_user")) & (rows.c.recorded == literal_column("1"))
    return Statement(
        select(func.count(), func.count(case((is_one, literal_column("1")))), func.min(rows.c.key)), returns=True
    )


@cache
def _page(kind: str) -> Statement:
    query = (
        select(*SESSION_COLUMNS)
        .where(*_within(kind), _is_recorded, _is_users)
        .where(_sessions.c.key < bindparam("before"), _sessions.c.key >= bindparam("floor"))
        .order_by(_sessions.c.key.desc())
    )
    return Statement(query.limit(bindparam("limit")).offset(bindparam("skip")), returns=True)


_KINDS = ("own", "named", "anybodys")
COUNTS, PAGES = tuple(map(_counting, _KINDS)), tuple(map(_page, _KINDS))
_OWNERS = of_owner(_sessions)
_END_USERS = Statement(of_end_user(_sessions), returns=True)
_OUTPUTS = Statement(
    select(_runs.c.id, _runs.c.output_tokens).where(
        _runs.c.session_key == bindparam("by_key"), _runs.c.output_tokens.is_not(None)
    ),
    returns=True,
)


async def sessions_of(
    fetch: Fetch, caller: Caller, user: str, *, limit: int, offset: int
) -> tuple[Sequence[Session], int]:
    """Place by place, newest first, without the first `offset`; and how many there are in all."""
    found: list[Session] = []
    total = 0
    for place in await _places(fetch, caller, user):
        before, is_over = BEYOND_ALL, False
        while not is_over:
            values = _values(place, before)
            ((read, count, floor),) = await fetch(_counting(place.kind), values)
            is_over = read < STRETCH
            skip = offset + len(found) - total
            if len(found) < limit and skip < count:
                wanted = {**values, "floor": floor, "limit": limit - len(found), "skip": max(0, skip)}
                found += [session_of(row) for row in await fetch(_page(place.kind), wanted)]
            total += count
            before = floor
    return found, total


async def outputs_of(fetch: Fetch, session: Session) -> Mapping[str, int]:
    return {row[0]: row[1] for row in await fetch(_OUTPUTS, {"by_key": session.key})}


async def _places(fetch: Fetch, caller: Caller, user: str) -> Sequence[_Place]:
    owner = caller.owner
    if not caller.sees_all:
        return [_Place(owner.organization, owner.user, user)]
    own = sorted(name for (name,) in await fetch(_OWNERS, {"user": user}))
    others = sorted(name for (name,) in await fetch(_END_USERS, {"user": user}))
    return [*(_Place(name, user, user) for name in own), *(_Place(name, None, user) for name in others)]


def _values(place: _Place, before: str) -> dict[str, Any]:
    told = {"by_organization": place.organization, "by_owner": place.owner, "by_user": place.user}
    return {**told, "before": before, "stretch": STRETCH}
