"""Identities: for whom a caller may act."""

from __future__ import annotations

from innkeeper.core.errors import Forbidden
from innkeeper.core.identity import Caller, Role


def end_user(caller: Caller, named: str | None) -> str:
    """The end user of a request: the caller itself, or whom it names and may name.

    Raises: Forbidden.
    """
    if named is None or named == caller.owner.user:
        return caller.owner.user
    if caller.is_local or caller.role is Role.ADMIN or "impersonate" in caller.scopes:
        return named
    raise Forbidden("This credential may not act for another user.", param="user_id")
