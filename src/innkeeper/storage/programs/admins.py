"""Administrators as programs: add one, and remove one who is not the last.

Whoever removes holds the first two rows, so that of two who remove the last two one is refused.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, bindparam, delete, func, insert, literal_column, select, update

from innkeeper.core.administration import AddAdmin, RemoveAdmin
from innkeeper.core.changes import Fence
from innkeeper.core.errors import AdminConflict, LastAdmin
from innkeeper.core.outcomes import Done, Missing
from innkeeper.storage import schema
from innkeeper.storage.records import plain
from innkeeper.storage.statements import Program, Query, Statement

_table, _tokens = schema.admins, schema.tokens
_KNOWN_EMAIL = Statement(select(_table.c.email).where(_table.c.email == bindparam("by_email")), returns=True)
_KNOWN_ID = Statement(select(_table.c.email).where(_table.c.workos_id == bindparam("by_workos_id")), returns=True)
_INSERT = Statement(insert(_table))
_HOLD_TWO = Statement(
    select(_table.c.email)
    .where(_table.c.email >= literal_column("''"))
    .order_by(_table.c.email)
    .limit(literal_column("2"))
    .with_for_update(),
    returns=True,
)
_DELETE = Statement(
    delete(_table).where(_table.c.email == bindparam("by_email")).returning(_table.c.workos_id), returns=True
)
_REVOKE = Statement(
    update(_tokens)
    .where(
        _tokens.c.role == literal_column("'admin'"),
        func.lower(_tokens.c.owner) == bindparam("by_owner"),
        _tokens.c.revoked_at.is_(None),
    )
    .values(revoked_at=bindparam("now", type_=BigInteger))
)
FIND = Statement(select(_table.c.id).where(_table.c.id == bindparam("by_id"), _table.c.email == bindparam("by_email")),
                 returns=True)  # fmt: skip


def add(change: AddAdmin, fence: Fence | None) -> Program:
    admin = change.admin
    if (yield Query(_KNOWN_EMAIL, {"by_email": admin.email})):
        raise AdminConflict("An administrator has that address already.", param="email")
    if (yield Query(_KNOWN_ID, {"by_workos_id": admin.workos_id})):
        raise AdminConflict("An administrator has that id already.", param="workos_id")
    yield Query(
        _INSERT,
        {
            "email": admin.email,
            "id": admin.id,
            "workos_id": admin.workos_id,
            "name": plain(admin.name),
            "created_by": admin.created_by,
            "created_at": admin.created_at,
        },
    )
    return Done()


def remove(change: RemoveAdmin, fence: Fence | None) -> Program:
    """Takes with it what makes tokens of that person's an admin's: they open nothing any more."""
    held = yield Query(_HOLD_TWO, {})
    if not (yield Query(_KNOWN_EMAIL, {"by_email": change.email})):
        return Missing()
    if len(held) < 2:
        raise LastAdmin("This is the last administrator; add another one first.", param="email")
    ((workos_id,),) = yield Query(_DELETE, {"by_email": change.email})
    for user in sorted({change.email, workos_id.lower()}):
        yield Query(_REVOKE, {"by_owner": user, "now": change.now})
    return Done()
