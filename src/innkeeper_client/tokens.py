"""Tokens: API keys of users, for administrators to make and revoke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from innkeeper_client import requests
from innkeeper_client.exceptions import invalid_answer
from innkeeper_client.requests import Request, Work, given, segment

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Token:
    """A token. `token` is itself, told once, when it is made; it is not shown in a `repr`."""

    id: str
    user: str
    organization: str
    role: str
    scopes: list[str]
    name: str = ""
    created_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TokenList:
    """Newest first."""

    tokens: list[Token]
    has_more: bool = False


def create_token(
    user: str | None = None,
    *,
    organization: str | None = None,
    role: Literal["admin", "user", "read"] = "user",
    scopes: Sequence[str] = (),
    ttl: float | None = None,
    name: str = "",
) -> Work[Token]:
    """Make a token, which holds for `ttl` seconds, or for good. Its `token` is told this one time."""
    body = given(user=user, organization=organization, role=role, scopes=list(scopes), ttl=ttl, name=name)
    for _ in range(_ATTEMPTS):
        made: Token = yield requests.post("/tokens", Token, body)
        if made.token is not None:
            return made
        yield revoke_token(made.id)  # the answer that told it was lost on its way, and nobody can use it
    raise invalid_answer("The server made tokens without telling them; they are revoked.")


def list_tokens(
    user: str | None = None, *, organization: str | None = None, limit: int = 100, after: str | None = None
) -> Request[TokenList]:
    """Tokens, newest first, revoked and expired ones too; `after` is the id of the last of the page before."""
    return requests.get("/tokens", TokenList, user=user, organization=organization, limit=limit, after=after)


def get_token(token_id: str) -> Request[Token]:
    """One token."""
    return requests.get(f"/tokens/{segment(token_id, 'token_id')}", Token)


def revoke_token(token_id: str) -> Request[None]:
    """Let a token open nothing any more."""
    return requests.delete(f"/tokens/{segment(token_id, 'token_id')}")
