"""Audit: entries for what was done or refused, committed with it or before its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from innkeeper.core.administration import WriteAudit
from innkeeper.core.audit import AuditEntry
from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant
from innkeeper.ports.journal import Journal


class Audit:
    """Words entries. What it returns is put into the same commit as what it tells of."""

    def __init__(self, *, journal: Journal, now: Callable[[], int], new_id: Callable[[], str]) -> None:
        self._journal = journal
        self._now = now
        self._new_id = new_id

    def entry(
        self,
        actor: Owner,
        action: str,
        resource: str,
        resource_id: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> WriteAudit:
        """The change that tells of an action, such as `token.revoke` of the `token` with that id."""
        now = Instant(self._now())
        return WriteAudit(AuditEntry(self._new_id(), actor, action, resource, resource_id, now, dict(metadata or {})))

    async def write(self, entry: WriteAudit) -> None:
        """Commit an entry of something that changes nothing in the store, or that was refused.

        Raises: StorageUnavailable.
        """
        await self._journal.commit((entry,))
