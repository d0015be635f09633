"""Presenting: where a request may carry a credential, and what it presents there.

`api-token`, `api_token`, `x-api-key` and `Authorization: Bearer` carry a token, `X-Session-Token` a session's; what an
identity provider signed stands in `Authorization` alone. Pages cannot set the headers of a WebSocket, so theirs may
offer `innkeeper.token.<token>` beside the subprotocol `innkeeper`. Never a query: it would stand in logs and histories.
Whether it opens anything is the gate's affair.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from innkeeper.core.tokens import JWT, MAX_JWT, SESSION_TEXT, TEXT

SUBPROTOCOL = "innkeeper"
CREDENTIAL = "innkeeper.credential"
"""The key in a scope of the credential by which its caller is known; headers may come to be more after that."""
_IN_SUBPROTOCOL = "innkeeper.token."
_SESSION = b"x-session-token"
_AUTHORIZATION = b"authorization"
HEADERS = frozenset({b"api-token", b"api_token", b"x-api-key", _AUTHORIZATION, _SESSION})
_NOTHING = frozenset({"", "null", "undefined"})
"""What programs send that have no credential and say so."""


class Presented(NamedTuple):
    """A credential; one that is not well-formed matches nothing and need not be looked up."""

    text: str
    is_well_formed: bool


def presented(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[Presented]:
    """The different credentials in such headers."""
    return frozenset([found for name, value in headers if (found := _of_header(name, value)) is not None])


def _of_header(name: bytes, value: bytes) -> Presented | None:
    text = value.decode("latin-1").strip()
    if name == _AUTHORIZATION:
        scheme, _, text = text.partition(" ")
        if scheme.lower() != "bearer":
            return None
        text = text.strip()
    if text in _NOTHING:
        return None
    form = SESSION_TEXT if name == _SESSION else TEXT
    return Presented(text, bool(form.fullmatch(text)) or (name == _AUTHORIZATION and _is_signed(text)))


def _is_signed(text: str) -> bool:
    """Whether it looks like a token that an identity provider signed."""
    return len(text) <= MAX_JWT and JWT.fullmatch(text) is not None


def presented_in_subprotocols(scope: Any) -> frozenset[Presented]:
    """The different credentials that a WebSocket offers as subprotocols."""
    if scope["type"] != "websocket":
        return frozenset()
    offered = scope.get("subprotocols") or ()
    texts = [one.removeprefix(_IN_SUBPROTOCOL) for one in offered if one.startswith(_IN_SUBPROTOCOL)]
    return frozenset(
        Presented(text, bool(TEXT.fullmatch(text) or SESSION_TEXT.fullmatch(text)) or _is_signed(text))
        for text in texts
        if text not in _NOTHING
    )


def accepted_subprotocol(scope: Any) -> str | None:
    """What to accept a WebSocket with: ours, if it was offered, without which browsers hang up."""
    return SUBPROTOCOL if SUBPROTOCOL in (scope.get("subprotocols") or ()) else None
