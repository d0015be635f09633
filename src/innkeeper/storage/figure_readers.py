"""Figure readers: how much there is of what the store holds."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import bindparam, func, literal_column, select

from innkeeper.core.sessions import Session
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch
from innkeeper.storage.statements import Statement

_runs, _sessions = schema.runs, schema.sessions
_COUNT_QUEUED = Statement(
    select(func.count())
    .select_from(_runs)
    .where(_runs.c.status == literal_column("'queued'"), _runs.c.background == literal_column("1")),
    returns=True,
)
_RUNS_BY_STATUS = Statement(
    select(_runs.c.status, func.count()).where(_runs.c.session_key == bindparam("by_key")).group_by(_runs.c.status),
    returns=True,
)
_LENGTH = Statement(select(_sessions.c.sequence).where(_sessions.c.key == bindparam("by_key")), returns=True)


class StoredFigures:
    """Implements `ports.readers.CountReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def queued_runs(self) -> int:
        count: int = (await self._fetch(_COUNT_QUEUED, {}))[0][0]
        return count

    async def runs_of(self, session: Session) -> Mapping[str, int]:
        rows = await self._fetch(_RUNS_BY_STATUS, {"by_key": session.key})
        return {str(status): count for status, count in rows}

    async def events_of(self, session: Session) -> int:
        rows = await self._fetch(_LENGTH, {"by_key": session.key}, is_quick=True)
        return rows[0][0] if rows else 0
