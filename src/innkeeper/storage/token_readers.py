"""Token readers: credentials by their public id, and sessions by the digest of the token that opens them.

They are asked before there is a caller, so they name none.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, select

from innkeeper.core.identity import Owner, Role
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.core.tokens import Token
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch
from innkeeper.storage.records import SESSION_COLUMNS, session_of
from innkeeper.storage.statements import Row, Statement

_tokens, _sessions = schema.tokens, schema.sessions
_COLUMNS = tuple(_tokens.c)
_NAMES = tuple(column.name for column in _COLUMNS)
_FIND = Statement(select(*_COLUMNS).where(_tokens.c.id == bindparam("by_id")), returns=True)
_older = select(*_COLUMNS).where(_tokens.c.id < bindparam("before")).order_by(_tokens.c.id.desc())
_of_user = _tokens.c.owner == bindparam("by_user")
_of_organization = _tokens.c.organization == bindparam("by_organization")
_PAGE = Statement(_older.limit(bindparam("limit")), returns=True)
_OF_USER = Statement(_older.where(_of_user).limit(bindparam("limit")), returns=True)
_OF_ORGANIZATION = Statement(_older.where(_of_organization).limit(bindparam("limit")), returns=True)
_OF_OWNER = Statement(_older.where(_of_organization, _of_user).limit(bindparam("limit")), returns=True)
_PAGES = {
    (False, False): _PAGE,
    (True, False): _OF_USER,
    (False, True): _OF_ORGANIZATION,
    (True, True): _OF_OWNER,
}
"""By whether a user and an organization are named."""
_SESSION = Statement(
    select(*SESSION_COLUMNS).where(_sessions.c.token_digest == bindparam("by_digest")),
    returns=True,
)
_BEYOND_ALL = "j"
"""Sorts behind every id, which begins with `ik`."""


class StoredTokens:
    """Implements `ports.readers.TokenReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def find(self, token_id: str) -> tuple[Token, str] | None:
        rows = await self._fetch(_FIND, {"by_id": token_id}, is_quick=True)
        return _token_of(rows[0]) if rows else None

    async def page(
        self, *, limit: int, after: str | None = None, user: str | None = None, organization: str | None = None
    ) -> tuple[Sequence[Token], bool]:
        values: dict[str, object] = {"before": _BEYOND_ALL if after is None else after, "limit": limit + 1}
        if user is not None:
            values["by_user"] = user
        if organization is not None:
            values["by_organization"] = organization
        rows = await self._fetch(_PAGES[user is not None, organization is not None], values)
        return [_token_of(row)[0] for row in rows[:limit]], len(rows) > limit

    async def session_of(self, digest: str) -> Session | None:
        rows = await self._fetch(_SESSION, {"by_digest": digest}, is_quick=True)
        return session_of(rows[0]) if rows else None


def _token_of(row: Row) -> tuple[Token, str]:
    cell = dict(zip(_NAMES, row, strict=True))
    token = Token(
        id=cell["id"],
        owner=Owner(cell["organization"], cell["owner"]),
        role=Role(cell["role"]),
        created_at=Instant(cell["created_at"]),
        scopes=frozenset(cell["scopes"].split()),
        name=cell["name"],
        expires_at=cell["expires_at"],
        revoked_at=cell["revoked_at"],
        last_used_at=cell["last_used_at"],
    )
    return token, cell["digest"]
