"""Tokens as programs: make, revoke, and when they were used last. Only digests come this far."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, bindparam, func, insert, update

from innkeeper.core.changes import Fence
from innkeeper.core.control_changes import CreateToken, RevokeToken, TouchTokens
from innkeeper.core.outcomes import Done, Missing
from innkeeper.core.tokens import Token
from innkeeper.storage import schema
from innkeeper.storage.records import plain
from innkeeper.storage.statements import Program, Query, Statement

_table = schema.tokens
_INSERT = Statement(insert(_table))
_REVOKE = Statement(
    update(_table)
    .where(_table.c.id == bindparam("by_id"))
    .values(revoked_at=func.coalesce(_table.c.revoked_at, bindparam("now", type_=BigInteger)))
    .returning(_table.c.id),
    returns=True,
)
_used_at = bindparam("used_at", type_=BigInteger)
_TOUCH = Statement(
    update(_table)
    .where(
        _table.c.id == bindparam("by_id"),
        _table.c.last_used_at.is_(None) | (_table.c.last_used_at < _used_at),
    )
    .values(last_used_at=_used_at)
)


def create(change: CreateToken, fence: Fence | None) -> Program:
    yield Query(_INSERT, {**_cells(change.token), "digest": change.digest})
    return Done()


def _cells(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "organization": token.owner.organization,
        "owner": token.owner.user,
        "role": token.role.value,
        "scopes": " ".join(sorted(token.scopes)),
        "name": plain(token.name),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "last_used_at": token.last_used_at,
    }


def revoke(change: RevokeToken, fence: Fence | None) -> Program:
    rows = yield Query(_REVOKE, {"by_id": change.token_id, "now": change.now})
    return Done() if rows else Missing()


def touch(change: TouchTokens, fence: Fence | None) -> Program:
    for token_id, used_at in sorted(change.used.items()):  # everybody locks them in one order
        yield Query(_TOUCH, {"by_id": token_id, "used_at": used_at})
    return Done()
