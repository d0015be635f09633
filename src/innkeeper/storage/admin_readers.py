"""Administrator readers: who operates the platform, and what has been counted of those who use it.

Users and days are counted where chat logs are derived, so that a figure may be a moment behind.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, bindparam, func, literal_column, select

from innkeeper.core.admins import Admin, PlatformStatistics
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch
from innkeeper.storage.statements import Row, Statement

ACTIVE = 30 * 86_400 * 1_000_000
"""Microseconds within which a user ran something who counts as active."""

_DAY = 86_400 * 1_000_000
_admins, _users, _days = schema.admins, schema.users, schema.days
_COLUMNS = (
    _admins.c.id,
    _admins.c.email,
    _admins.c.workos_id,
    _admins.c.name,
    _admins.c.created_by,
    _admins.c.created_at,
)
_ALL = Statement(select(*_COLUMNS).order_by(_admins.c.created_at, _admins.c.id), returns=True)
_BY_EMAIL = Statement(select(*_COLUMNS).where(_admins.c.email == bindparam("by_email")), returns=True)
_BY_WORKOS_ID = Statement(select(*_COLUMNS).where(_admins.c.workos_id == bindparam("by_workos_id")), returns=True)
# Counting all users walks an index of them from end to end: a figure for administrators, who ask for it seldom.
_SEEN_SINCE = Statement(
    select(func.count()).where(_users.c.last_seen_at >= bindparam("since", type_=BigInteger)), returns=True
)
_TOTALS = Statement(
    select(
        func.coalesce(func.sum(_days.c.requests), literal_column("0")),
        func.coalesce(func.sum(_days.c.input_tokens + _days.c.output_tokens), literal_column("0")),
    ),
    returns=True,
)
_TODAY = Statement(
    select(_days.c.requests, _days.c.input_tokens + _days.c.output_tokens).where(_days.c.day == bindparam("by_day")),
    returns=True,
)


def _organizations() -> Statement:
    """How many organizations there are, each found by one step in the index, whatever its users are."""
    first = select(func.min(_users.c.organization).label("name")).cte("organizations", recursive=True)
    following = _users.alias("following")
    after = select(func.min(following.c.organization)).where(following.c.organization > first.c.name).correlate(first)
    found = first.union_all(select(after.scalar_subquery()).where(first.c.name.is_not(None)))
    return Statement(select(func.count(found.c.name)), returns=True)


_ORGANIZATIONS = _organizations()


class StoredAdmins:
    """Implements `ports.accounts.AdminReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def all(self) -> Sequence[Admin]:
        return [_admin_of(row) for row in await self._fetch(_ALL, {})]

    async def find(self, *, email: str | None = None, workos_id: str | None = None) -> Admin | None:
        rows: Sequence[Row] = ()
        if email is not None:
            rows = await self._fetch(_BY_EMAIL, {"by_email": email}, is_quick=True)
        if workos_id is not None and not rows:
            rows = await self._fetch(_BY_WORKOS_ID, {"by_workos_id": workos_id}, is_quick=True)
        return _admin_of(rows[0]) if rows else None

    async def statistics(self, now: Instant) -> PlatformStatistics:
        ((users,),) = await self._fetch(_SEEN_SINCE, {"since": 0})
        ((active_users,),) = await self._fetch(_SEEN_SINCE, {"since": now - ACTIVE})
        ((organizations,),) = await self._fetch(_ORGANIZATIONS, {})
        ((requests, tokens),) = await self._fetch(_TOTALS, {})
        today = await self._fetch(_TODAY, {"by_day": now // _DAY}) or ((0, 0),)
        return PlatformStatistics(
            users=users,
            active_users=active_users,
            organizations=organizations,
            requests=int(requests),
            requests_today=today[0][0],
            tokens=int(tokens),
            tokens_today=today[0][1],
        )


def _admin_of(row: Row) -> Admin:
    id, email, workos_id, name, created_by, created_at = row
    return Admin(id, email, workos_id, name, created_by, Instant(created_at))
