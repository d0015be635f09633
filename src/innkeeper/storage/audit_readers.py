"""Audit readers: pages of the audit log, newest first, and its chain from the beginning.

Numbers have no gaps, so that a page is found by its numbers, and how many entries there are is the head's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import BigInteger, bindparam, literal_column, select

from innkeeper.core.audit import AuditEntry
from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch
from innkeeper.storage.records import loads
from innkeeper.storage.statements import Row, Statement

_LAST_MOMENT = 253_402_300_800_000_000
"""Microseconds up to the year 10000."""

_table, _heads = schema.audit_entries, schema.audit_head
_COLUMNS = (
    _table.c.number,
    _table.c.id,
    _table.c.organization,
    _table.c.owner,
    _table.c.action,
    _table.c.resource,
    _table.c.resource_id,
    _table.c.metadata,
    _table.c.created_at,
    _table.c.previous,
    _table.c.digest,
)
_HEAD = Statement(
    select(_heads.c.number, _heads.c.digest).where(_heads.c.id == literal_column("1")),
    returns=True,
)
_PAGE = Statement(
    select(*_COLUMNS)
    .where(_table.c.number <= bindparam("newest", type_=BigInteger), _table.c.number > bindparam("oldest"))
    .order_by(_table.c.number.desc()),
    returns=True,
)
_CHAIN = Statement(
    select(*_COLUMNS)
    .where(_table.c.number > bindparam("after", type_=BigInteger))
    .order_by(_table.c.number)
    .limit(bindparam("limit")),
    returns=True,
)


class StoredAudit:
    """Implements `ports.accounts.AuditReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def page(self, *, limit: int, offset: int = 0) -> tuple[Sequence[AuditEntry], int]:
        count, _ = await self.head()
        newest = count - offset
        if newest <= 0:
            return [], count
        rows = await self._fetch(_PAGE, {"newest": newest, "oldest": max(newest - limit, 0)})
        return [_legible(_entry_of(row)[0]) for row in rows], count

    async def chain(self, after: int, limit: int) -> Sequence[tuple[AuditEntry, str]]:
        return [_entry_of(row) for row in await self._fetch(_CHAIN, {"after": after, "limit": limit})]

    async def head(self) -> tuple[int, str]:
        rows = await self._fetch(_HEAD, {}, is_quick=True)
        return (rows[0][0], rows[0][1]) if rows else (0, "")


def _entry_of(row: Row) -> tuple[AuditEntry, str]:
    """The entry, and its metadata as it is stored; what somebody made of that by hand need not be JSON."""
    number, id, organization, owner, action, resource, resource_id, metadata, created_at, previous, digest = row
    entry = AuditEntry(
        id=id,
        actor=Owner(organization, owner),
        action=action,
        resource=resource,
        resource_id=resource_id,
        created_at=Instant(created_at),
        metadata=_members(metadata),
        number=number,
        previous=previous,
        digest=digest,
    )
    return entry, metadata


def _legible(entry: AuditEntry) -> AuditEntry:
    """The entry, for showing: SQLite lets any value stand in any column, and a page is not lost for one of them."""
    moment: object = entry.created_at
    is_moment = isinstance(moment, int) and 0 <= moment < _LAST_MOMENT
    return replace(
        entry,
        id=_text(entry.id),
        actor=Owner(_text(entry.actor.organization), _text(entry.actor.user)),
        action=_text(entry.action),
        resource=_text(entry.resource),
        resource_id=None if entry.resource_id is None else _text(entry.resource_id),
        created_at=entry.created_at if is_moment else Instant(0),
    )


def _text(found: object) -> str:
    return found if isinstance(found, str) else repr(found)


def _members(text: str) -> dict[str, object]:
    try:
        found = loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"unreadable": _text(text)}
