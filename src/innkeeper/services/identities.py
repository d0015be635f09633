"""Identities: for whom a caller may act.

A user's name may stand in a body, a query or the metadata of an OpenAI request; wherever it does, it is judged here.
"""

from __future__ import annotations

from innkeeper.core.errors import Forbidden
from innkeeper.core.identity import Caller
from innkeeper.core.tokens import IMPERSONATE


def end_user(caller: Caller, named: str | None) -> str:
    """The end user of what is made: the caller itself, or whom it names and may name.

    Raises: Forbidden.
    """
    return checked_user(caller, named) or caller.owner.user


def checked_user(caller: Caller, named: str | None) -> str | None:
    """`named`, which picks among what belongs to end users, if the caller may name them.

    Raises: Forbidden.
    """
    if named is None or named == caller.owner.user:
        return named
    if caller.is_local or caller.sees_all or IMPERSONATE in caller.scopes:
        return named
    raise Forbidden(
        f"This credential may not act for another user; a token with the scope {IMPERSONATE} may.", param="user_id"
    )
