"""Allowances: what came of counting a request, kept in its scope for the headers of its answer.

`X-RateLimit-Limit` is how many a window allows, `-Remaining` how many of them are left, and `-Reset` in how many
seconds the window ends. Who counts, and what for, is the gate's affair.
"""

from __future__ import annotations

from typing import Any

from innkeeper.core.rates import Verdict
from innkeeper.services.rates import seconds

_VERDICT = "innkeeper.verdict"
ALLOWANCE_HEADERS = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
_LIMIT, _REMAINING, _RESET = (name.encode() for name in ALLOWANCE_HEADERS)


def keep(scope: Any, verdict: Verdict) -> None:
    """Have the answer tell of it."""
    scope[_VERDICT] = verdict


def allowance_headers(scope: Any) -> list[tuple[bytes, bytes]]:
    """Those of the answer; none where nothing was counted."""
    verdict: Verdict | None = scope.get(_VERDICT)
    if verdict is None:
        return []
    return [
        (_LIMIT, b"%d" % verdict.limit),
        (_REMAINING, b"%d" % verdict.remaining),
        (_RESET, b"%d" % seconds(verdict.reset_after)),
    ]
