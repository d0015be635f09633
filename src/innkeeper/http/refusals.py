"""Refusals: which of them are told in the audit log as denials, and what is told of them.

Told are those of routes that only administrators may use, and of source code that somebody may not register. Nobody
hears of a refusal before it is written: where the log cannot be written, what is answered is that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from innkeeper.core.errors import CodeExecutionDisabled, Forbidden, InnkeeperError, Unauthorized
from innkeeper.core.identity import Role
from innkeeper.http.addresses import address_of
from innkeeper.http.deps import House
from innkeeper.http.gates import PERMISSIONS
from innkeeper.http.problems import problem_of
from innkeeper.services.denials import NOBODY, Denial

ADMINISTRATIVE = frozenset(permission for permission, least in PERMISSIONS.items() if least is Role.ADMIN)
"""The permissions whose denials are told."""

_CODE = "code:write"
_LONGEST_METHOD = 16


def denied_permission(error: Exception, permission: str) -> str | None:
    """The permission that this error denies, if its denial is told."""
    if isinstance(error, CodeExecutionDisabled):
        return _CODE if "scope" in error.details else None  # without, the server does it for nobody
    if isinstance(error, Forbidden):
        permission = error.permission or permission
    is_refused = isinstance(error, Unauthorized | Forbidden)
    return permission if is_refused and permission in ADMINISTRATIVE else None


async def told(error: Exception, permission: str, scope: Mapping[str, Any], route: str, house: House) -> Exception:
    """What to answer: the error itself, once it is written where it has to be, or why it cannot be written."""
    denied = denied_permission(error, permission)
    if denied is None:
        return error
    assert isinstance(error, InnkeeperError)
    caller = scope.get("innkeeper.caller")
    denial = Denial(
        actor=getattr(error, "owner", None) or (NOBODY if caller is None else caller.owner),
        permission=denied,
        method=scope["method"][:_LONGEST_METHOD],
        route=route,
        address=address_of(scope),
        status=problem_of(type(error)).status,
        reason=error.message,
    )
    try:
        await (await house.ready()).denials.tell(denial)
    except InnkeeperError as failure:
        return failure
    return error
