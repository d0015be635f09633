"""Action readers: what runs wait for people to do, and what has been decided."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from sqlalchemy import bindparam, literal_column, select

from innkeeper.core.actions import ActionStatus, StoredAction
from innkeeper.core.identity import Caller
from innkeeper.storage import schema
from innkeeper.storage.action_records import ACTION_COLUMNS, action_of
from innkeeper.storage.readers import BEYOND_ALL, Fetch, owned, visible
from innkeeper.storage.statements import Statement

_table = schema.actions
_OF_RUN = Statement(
    select(*ACTION_COLUMNS).where(_table.c.run_id == bindparam("by_run")).order_by(_table.c.number), returns=True
)


@cache
def _runs_of_page(status: ActionStatus | None, *, sees_all: bool) -> Statement:
    """The runs whose actions are on a page."""
    query = select(_table.c.run_id).where(_table.c.run_id < bindparam("after"))
    if not sees_all:
        query = query.where(owned(_table))
    if status is not None:
        query = query.where(_table.c.status == literal_column(f"'{status.value}'"))
    query = query.group_by(_table.c.run_id).order_by(_table.c.run_id.desc()).limit(bindparam("limit"))
    return Statement(query, returns=True)


class StoredActions:
    """Implements `ports.readers.ActionReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def of_run(self, run_id: str) -> Sequence[StoredAction]:
        return [action_of(row) for row in await self._fetch(_OF_RUN, {"by_run": run_id}, is_quick=True)]

    async def page(
        self, caller: Caller, *, limit: int, after: str | None = None, status: ActionStatus | None = None
    ) -> tuple[Sequence[StoredAction], bool]:
        values = {**visible(caller), "after": after or BEYOND_ALL, "limit": limit + 1}
        rows = await self._fetch(_runs_of_page(status, sees_all=caller.sees_all), values)
        found = [one for (run_id,) in rows[:limit] for one in await self.of_run(run_id)]
        return [one for one in found if status is None or one.status is status], len(rows) > limit
