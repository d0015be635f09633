"""Admissions: how a WebSocket on which runs are started is let in, or closed with a code that says why it is not."""

from __future__ import annotations

from starlette.websockets import WebSocket

from innkeeper.core.errors import (
    AddressTooLong,
    Forbidden,
    ForeignHost,
    HeadersTooLarge,
    InnkeeperError,
    RateLimited,
    ShuttingDown,
    StorageUnavailable,
    Unauthorized,
    Unparsable,
)
from innkeeper.core.identity import Caller
from innkeeper.http.denials import deny
from innkeeper.http.deps import House
from innkeeper.http.gates import admit_socket
from innkeeper.http.presenting import accepted_subprotocol
from innkeeper.http.trails import trailed

GOING_AWAY, TRY_AGAIN = 1012, 1013
_UNAUTHORIZED, _FORBIDDEN, _MISDIRECTED = 4401, 4403, 4421


async def admitted(websocket: WebSocket, house: House, permission: str) -> Caller | None:
    """Whoever asks for the connection, which is accepted; `None` where it has been refused."""
    try:
        caller = await admit_socket(house.gate, websocket.scope, permission)
    except (RateLimited, AddressTooLong, HeadersTooLarge, Unparsable) as error:
        await websocket.receive()  # the handshake, which is answered as a request
        await deny(error, house, websocket.scope, websocket._receive, websocket._send)
        return None
    except (ForeignHost, Forbidden, Unauthorized, StorageUnavailable) as error:
        await websocket.close(close_code(error), error.message[:120])
        return None
    await websocket.accept(accepted_subprotocol(websocket.scope))
    return caller


async def readmitted(websocket: WebSocket, house: House, permission: str) -> Caller:
    """Whoever is at the other end, looked up again: a token may have been revoked since the connection was made.

    Raises: Unauthorized, Forbidden, StorageUnavailable.
    """
    return trailed(await admit_socket(house.gate, websocket.scope, permission))


def close_code(error: InnkeeperError) -> int:
    """What a connection is closed with for such a refusal."""
    if isinstance(error, Unauthorized):
        return _UNAUTHORIZED
    if isinstance(error, StorageUnavailable | ShuttingDown):
        return TRY_AGAIN
    return _MISDIRECTED if isinstance(error, ForeignHost) else _FORBIDDEN
