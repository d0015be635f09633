"""Frames: uvicorn's WebSocket protocol, with a way to write frames that an app has made, many in one piece.

It offers the ASGI extension `innkeeper.frames` on connections that negotiated no extension of WebSocket's own. There an
app may send `innkeeper.frames.send`, whose `bytes` are whole frames, and `innkeeper.frames.drop`, a close that waits
for nobody: a client that does not read is let go with what it never took.
Invariant: nothing is written after a close frame, whoever sent it.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

EXTENSION = "innkeeper.frames"
_LAST_BYTES_SECONDS = 5.0


class FramesProtocol(WebSocketsSansIOProtocol):
    """One connection."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)  # which has the app started in the next turn of the loop
        if self.response.status_code == 101 and not self.conn.extensions:
            self.scope["extensions"][EXTENSION] = {}

    async def send(self, message: Any) -> None:
        if message["type"] == "innkeeper.frames.send":
            if not self.writable.is_set():
                await self.writable.wait()
            if self.conn.state is not State.OPEN or self.transport.is_closing():
                raise ClientDisconnected
            self.transport.write(message["bytes"])
        elif message["type"] == "innkeeper.frames.drop":
            self._drop(message["code"], message["reason"])
        else:
            await super().send(message)
            if message["type"] == "websocket.http.response.body" and self.close_sent:
                self.handshake_complete = True  # with a refusal, which uvicorn would take for an app that said nothing

    def _drop(self, code: int, reason: str) -> None:
        if self.conn.state is State.OPEN and not self.transport.is_closing():
            self.conn.send_close(code, reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._end_soon()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._end_soon()

    def _end_soon(self) -> None:
        """Close once everything has been taken, and after a moment whether or not it has."""
        self.transport.close()
        self.loop.call_later(_LAST_BYTES_SECONDS, self.transport.abort)
