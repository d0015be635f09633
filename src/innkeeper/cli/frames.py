"""Frames: uvicorn's WebSocket protocol, with a way to write frames that an app has made, many in one piece.

It offers the ASGI extension `innkeeper.frames` on connections that negotiated no extension of WebSocket's own. There an
app may send `innkeeper.frames.send`, whose `bytes` are whole frames, and `innkeeper.frames.drop`, a close that waits
for nobody: a client that does not read is let go with what it never took. It keeps clients within bounds, too: how many
messages they send, for how long they owe the rest of one, and for how long they take nothing.
Invariant: nothing is written after a close frame, whoever sent it.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import State

from innkeeper.cli.patience import Debt, Taking, drop
from innkeeper.http.bounds import FLOOD_CODE, GUARDED, Bounds, Rate, flood_reason

EXTENSION = "innkeeper.frames"
_MOST_FRAGMENTS = 1024
_LAST_BYTES_SECONDS = 5.0


class FramesProtocol(WebSocketsSansIOProtocol):
    """One connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        bounds = getattr(self.config, "bounds", None)
        self._bounds = bounds if isinstance(bounds, Bounds) else Bounds()
        self._rate = Rate(self._bounds.messages_per_second, self.loop.time)
        self._heard_bytes = self._messages = 0
        self._debt = Debt()
        self._taking = Taking()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)  # which has the app started in the next turn of the loop
        if self.response.status_code == 101 and not self.conn.extensions:
            self.scope["extensions"][EXTENSION] = {}
        if self.response.status_code == 101:
            self.scope[GUARDED] = True  # type: ignore[literal-required]  # a key of ours

    # what the client sends

    def data_received(self, data: bytes) -> None:
        self._heard_bytes += len(data)
        super().data_received(data)

    def send_receive_event_to_app(self) -> None:
        self._messages += 1
        if not self._is_flood():
            super().send_receive_event_to_app()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < _MOST_FRAGMENTS:
            super().handle_cont(event)
        else:
            self._end(1009, f"A message may come in at most {_MOST_FRAGMENTS} fragments.")

    def handle_ping(self) -> None:
        if not self._is_flood():
            super().handle_ping()

    def _is_flood(self) -> bool:
        if self.close_sent or not self._rate.is_exceeded():
            return False
        self._end(FLOOD_CODE, flood_reason(self._bounds))
        return True

    def _end(self, code: int, reason: str) -> None:
        """Close, and tell the app."""
        if not self.close_sent:
            self.frames = []
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            self._drop(code, reason)

    def look(self, seconds: float) -> None:
        """Let the client go if it owes something for too long; `seconds` have gone by since the last look."""
        bounds = self._bounds
        if self._taking.has_stalled(self.transport, bounds, seconds):
            drop(self.transport)
        elif self.transport.is_closing():
            return
        elif not self.handshake_complete:
            if self._debt.is_overdue("handshake", 0, seconds, bounds.handshake_seconds):
                self.send_500_response()
                self._end_soon()
        elif (self.frames or self.conn.reader.buffer) and not self.read_paused and not self.close_sent:
            if self._debt.is_overdue(self._messages, self._heard_bytes, seconds, bounds.slow_seconds):
                self._end(1008, "The rest of a message did not arrive in time.")
        else:
            self._debt.forget()

    # what the app sends

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
