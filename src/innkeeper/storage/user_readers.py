"""User readers: where something is stored of a user, so that it can be erased."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, bindparam, func, literal_column, select

from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch
from innkeeper.storage.statements import Statement

_OWNED = (
    schema.sessions,
    schema.runs,
    schema.chat_logs,
    schema.credit_records,
    schema.model_usage,
    schema.balances,
    schema.balance_entries,
    schema.idempotency_keys,
    schema.tokens,
    schema.log_records,
    schema.users,
    schema.files,
)
"""What has owners and an index that begins with them."""

Conditions = tuple[ColumnElement[bool], ...]


def _all(rows: Any) -> Conditions:
    return ()


def _waits_for_agent(rows: Any) -> Conditions:
    return rows.c.status == literal_column("'deferred'"), rows.c.session_key.is_(None)


def of_owner(table: Table, indexed: Callable[[Any], Conditions] = _all) -> Statement:
    """Every organization of a table is found by one step in the index, and looked into by another.

    `indexed` says which rows the index has.
    """
    inner, following = table.alias("inner_rows"), table.alias("following")
    least = select(func.min(table.c.organization).label("name")).where(*indexed(table))
    first = least.cte("organizations", recursive=True)
    is_behind = following.c.organization > first.c.name
    after = select(func.min(following.c.organization)).where(is_behind, *indexed(following)).correlate(first)
    found = first.union_all(select(after.scalar_subquery()).where(first.c.name.is_not(None)))
    is_there = (
        select(literal_column("1"))
        .where(inner.c.organization == found.c.name, inner.c.owner == bindparam("user"), *indexed(inner))
        .correlate(found)
        .exists()
    )
    return Statement(select(found.c.name).where(found.c.name.is_not(None), is_there), returns=True)


def of_end_user(table: Any) -> Any:
    """The organizations in which somebody acted on the user's behalf."""
    query = select(table.c.organization).where(table.c.user_id == bindparam("user"))
    if table not in (schema.users, schema.chat_logs):
        query = query.where(table.c.user_id != table.c.owner)
    return query.distinct()


OWNERS = (*map(of_owner, _OWNED), of_owner(schema.injections, _waits_for_agent))
_END_USERS = tuple(
    Statement(of_end_user(table), returns=True)
    for table in (
        schema.sessions,
        schema.runs,
        schema.credit_records,
        schema.model_usage,
        schema.chat_logs,
        schema.users,
        schema.files,
    )
)


class StoredUsers:
    """Implements `ports.accounts.UserReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def organizations(self, user: str) -> Sequence[str]:
        found = [row[0] for one in (*OWNERS, *_END_USERS) for row in await self._fetch(one, {"user": user})]
        return sorted(set(found))
