"""Denials: WebSockets that are not accepted, and how their clients hear why."""

from __future__ import annotations

import contextlib

from starlette.types import Receive, Scope, Send

from innkeeper.core.errors import RateLimited
from innkeeper.http.deps import House
from innkeeper.http.problems import answer
from innkeeper.http.routes import request_id_of, stamped

_TOO_FAST, _REFUSED = 4429, 4400
_EXTENSION = "websocket.http.response"


async def deny(error: Exception, house: House, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the handshake with the error, or, where the server cannot, with its own refusal."""
    with contextlib.suppress(OSError):
        if _EXTENSION in scope.get("extensions", {}):
            response = answer(error, request_id_of(scope), shows_errors=house.shows_errors)
            await response(scope, receive, stamped(scope, send))
        else:
            code = _TOO_FAST if isinstance(error, RateLimited) else _REFUSED
            await send({"type": "websocket.close", "code": code, "reason": ""})
