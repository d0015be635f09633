"""Farewells: how a server parts from clients that keep their connections, without failing a request of theirs.

A client may send the next request at any moment, so none is closed unheard: for a moment every answer asks to connect
anew, and then those are closed that wait for a request which has not come. WebSockets are left to the runs on them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any


class Farewell:
    """The app; once `is_leaving`, its responses ask their clients to connect anew."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.is_leaving = False

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if self.is_leaving and scope["type"] == "http":
            send = _closing(send)
        answer: Awaitable[None] = self._app(scope, receive, send)
        return answer


def _closing(send: Any) -> Any:
    async def send_last(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return send_last


def close_after_answer(connections: Iterable[Any], protocol: type[Any]) -> None:
    """Close those with a request under way once it is answered; if possible, the answer says so."""
    for connection in connections:
        if isinstance(connection, protocol) and not _is_idle(connection):
            connection.shutdown()


def close_idle(connections: Iterable[Any], protocol: type[Any]) -> None:
    """Close those that wait for a request."""
    for connection in connections:
        if isinstance(connection, protocol) and _is_idle(connection):
            connection.shutdown()


def _is_idle(connection: Any) -> bool:
    return connection.cycle is None or connection.cycle.response_complete
