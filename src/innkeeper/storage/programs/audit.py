"""The audit log as a program: an entry takes its number and its place in the chain while the head is held."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import BigInteger, bindparam, insert, literal_column, select, update

from innkeeper.core.administration import Audited, WriteAudit
from innkeeper.core.audit import AuditEntry, audit_digest
from innkeeper.core.changes import Fence
from innkeeper.core.identity import Owner
from innkeeper.storage import schema
from innkeeper.storage.records import dumps, plain
from innkeeper.storage.statements import Program, Query, Statement

_table, _head = schema.audit_entries, schema.audit_head
_is_head = _head.c.id == literal_column("1")
_HOLD = Statement(select(_head.c.number, _head.c.digest).where(_is_head).with_for_update(), returns=True)
_INSERT = Statement(insert(_table))
_ADVANCE = Statement(
    update(_head)
    .where(_is_head)
    .values(number=bindparam("new_number", type_=BigInteger), digest=bindparam("new_digest"))
)
FIND = Statement(select(_table.c.number).where(_table.c.id == bindparam("by_id")), returns=True)


def write(change: WriteAudit, fence: Fence | None) -> Program:
    ((last, previous),) = yield Query(_HOLD, {})
    entry, number = _storable(change), last + 1
    metadata = dumps(dict(entry.metadata))
    digest = audit_digest(entry, number, previous, metadata)
    yield Query(
        _INSERT,
        {
            "number": number,
            "id": entry.id,
            "organization": entry.actor.organization,
            "owner": entry.actor.user,
            "action": entry.action,
            "resource": entry.resource,
            "resource_id": entry.resource_id,
            "metadata": metadata,
            "created_at": entry.created_at,
            "previous": previous,
            "digest": digest,
        },
    )
    yield Query(_ADVANCE, {"new_number": number, "new_digest": digest})
    return Audited(replace(entry, number=number, previous=previous, digest=digest))


def _storable(change: WriteAudit) -> AuditEntry:
    """The entry with texts that a store gives back as it got them, as its digest is made of them."""
    entry = change.entry
    return replace(
        entry,
        actor=Owner(plain(entry.actor.organization), plain(entry.actor.user)),
        action=plain(entry.action),
        resource=plain(entry.resource),
        resource_id=None if entry.resource_id is None else plain(entry.resource_id),
    )
