"""Logs: clients add their own records, and read what they may see of everybody's.

The server's own records get there by `telemetry.logs`. Who sees what is decided here: everyone their own records and
what the server said of their own runs; all of it those who operate the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from innkeeper.core.changes import KeepClaim
from innkeeper.core.claims import Claim
from innkeeper.core.control_changes import KeepLogs
from innkeeper.core.errors import SessionNotFound
from innkeeper.core.identity import Caller, Role
from innkeeper.core.logs import Level, LogFilter, LogPage, LogRecord
from innkeeper.core.outcomes import Repeated
from innkeeper.core.redactions import kept
from innkeeper.core.times import Instant
from innkeeper.core.tokens import OBSERVABILITY
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import LogReader, SessionReader

CLIENT = "client"
"""What the logger of clients' records is called."""


class Logs:
    """The use cases of logs."""

    def __init__(
        self,
        *,
        journal: Journal,
        logs: LogReader,
        sessions: SessionReader,
        now: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        """`new_id` makes ids whose order is that of time."""
        self._journal = journal
        self._logs = logs
        self._sessions = sessions
        self._now = now
        self._new_id = new_id

    async def add(
        self,
        caller: Caller,
        level: Level,
        message: str,
        *,
        metadata: Mapping[str, object] | None = None,
        session_id: str | None = None,
        request_id: str | None = None,
        claim: Claim | None = None,
    ) -> tuple[LogRecord, bool]:
        """Store a record of the caller's; returns it, and whether the same request had stored it before.

        Raises: SessionNotFound, IdempotencyMismatch, StorageUnavailable.
        """
        if session_id is not None and await self._sessions.find(caller.looking(), session_id) is None:
            raise SessionNotFound(f"Session {session_id!r} does not exist.", param="session_id")

        def made(created_at: Instant, id: str, request_id: str | None) -> LogRecord:
            return LogRecord(
                id=id,
                owner=caller.owner,
                source="client",
                level=level,
                logger=CLIENT,
                message=kept(message),
                created_at=created_at,
                session_id=session_id,
                request_id=request_id,
                metadata=dict(metadata or {}),
            )

        record = made(Instant(self._now()), self._new_id(), request_id)
        keeping = KeepLogs((record,))
        if claim is None:
            await self._journal.commit((keeping,))
            return record, False
        asked_as = (request_id or "").encode()
        claiming = KeepClaim(caller.owner, claim, record.id, record.created_at, asked_as)
        outcome, _ = await self._journal.commit((claiming, keeping))
        if isinstance(outcome, Repeated):
            asked_as = outcome.claimed.answer or b""
            return made(outcome.claimed.created_at, outcome.claimed.subject, asked_as.decode() or None), True
        return record, False

    async def page(self, caller: Caller, wanted: LogFilter, *, limit: int, after: str | None = None) -> LogPage:
        """The records that this caller may see, newest first."""
        return await self._logs.page(caller, wanted, limit=limit, after=after, sees_all=sees_all(caller))


def sees_all(caller: Caller) -> bool:
    """Whether a caller may see what the server said of itself, and what concerns others."""
    return caller.is_local or caller.role is Role.ADMIN or OBSERVABILITY in caller.scopes
