"""Trails: what an administrator changes of others' things is told in the audit log before it is answered.

Whatever is found by its name on the way notes whose it is; so no route has to say what it touches, and a new one cannot
forget to. The entry follows the change and comes before the answer; where it cannot be written, that is the answer.
"""

from __future__ import annotations

from dataclasses import replace

from starlette.types import Message, Scope, Send
from starlette.websockets import WebSocket

from innkeeper.core.identity import Caller, Trail
from innkeeper.http.addresses import address_of
from innkeeper.http.deps import House

ACTION = "others.change"
_READS = frozenset(("GET", "HEAD", "OPTIONS"))
_FAILED = 400


def trailed(caller: Caller) -> Caller:
    """The caller, with a trail of its own where everybody's things are its to change."""
    return replace(caller, trail=Trail(caller.owner)) if caller.sees_all else caller


def telling(scope: Scope, send: Send, house: House, route: str) -> Send:
    """`send` that tells first what the request's caller has changed of others', where it may change any."""
    caller: Caller | None = scope["innkeeper.caller"]
    if caller is None or not caller.sees_all or scope["method"] in _READS:
        return send
    followed = scope["innkeeper.caller"] = trailed(caller)

    async def tell_and_send(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] < _FAILED:
            await tell(followed, scope, house, scope["method"], route)
        await send(message)

    return tell_and_send


async def tell_on_socket(caller: Caller, websocket: WebSocket, house: House) -> None:
    """As for a request, of one message on a WebSocket. Raises: StorageUnavailable."""
    await tell(caller, websocket.scope, house, "WEBSOCKET", getattr(websocket.scope.get("route"), "path", ""))


async def tell(caller: Caller, scope: Scope, house: House, method: str, route: str) -> None:
    """Write what this caller has reached since it was last told. Raises: StorageUnavailable."""
    for thing in caller.trail.taken() if caller.trail is not None else ():
        audit = (await house.ready()).audit
        told = {
            "method": method,
            "route": route,
            "address": address_of(scope),
            "organization": thing.owner.organization,
            "user": thing.owner.user,
        }
        await audit.write(audit.entry(caller.owner, ACTION, thing.kind, thing.id, told))
