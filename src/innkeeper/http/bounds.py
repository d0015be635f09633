"""Bounds: how much of a server one client may take before anybody knows who it is.

`Bounds` are the figures. `check` is asked by the gate, before anything else is; the body's size is `bodies`' affair.
Under `innkeeper serve` the connections themselves keep their clients to the rest (`cli.connections`, `cli.frames`), and
say so in the scope; under other servers `timed` and `counted` do what can be done from inside an app.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from innkeeper.core.errors import AddressTooLong, HeadersTooLarge, RequestTooSlow, Unparsable
from innkeeper.http.patience import within

GUARDED = "innkeeper.is_guarded"
"""The key in the scope of a connection that keeps its client within the bounds by itself."""

FLOOD_CODE, STALLED_CODE = 4429, 1013
_VERSION = len(" HTTP/1.1")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Sizes in bytes, times in seconds.

    `slow_seconds` is for a request's whole head and for each gap in its body; `idle_seconds` for a connection on which
    nothing is asked; `stalled_seconds` for a client that takes nothing of what waits for it.
    """

    body_bytes: int = 1024 * 1024
    chat_body_bytes: int = 10 * 1024 * 1024
    line_bytes: int = 8 * 1024
    header_bytes: int = 16 * 1024
    header_fields: int = 100
    slow_seconds: float = 10.0
    idle_seconds: float = 15.0
    stalled_seconds: float = 30.0
    handshake_seconds: float = 5.0
    message_bytes: int = 1024 * 1024
    messages_per_second: int = 50

    def check(self, scope: Scope) -> None:
        """Raises: AddressTooLong, HeadersTooLarge; Unparsable where two lengths of a body are told."""
        line = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
        headers = scope["headers"]
        if line + len(scope.get("method", "GET")) + 2 + _VERSION > self.line_bytes:
            raise AddressTooLong(f"The request line has more than {self.line_bytes} bytes.")
        if len(headers) > self.header_fields:
            raise self.too_many_fields()
        size = 0
        is_sent_in_chunks = False
        for name, value in headers:
            size += len(name) + len(value)
            if name == b"transfer-encoding":
                is_sent_in_chunks = True
        if size + 4 * len(headers) > self.header_bytes:
            raise self.too_large_headers()
        if is_sent_in_chunks and any(name == b"content-length" for name, _ in headers):
            raise Unparsable("The request has Content-Length and Transfer-Encoding; send one.")

    def too_many_fields(self) -> HeadersTooLarge:
        """What to say of too many header fields."""
        return HeadersTooLarge(f"The request has more than {self.header_fields} header fields.")

    def too_large_headers(self) -> HeadersTooLarge:
        """What to say of header fields that are too large in all."""
        return HeadersTooLarge(f"The header fields have more than {self.header_bytes} bytes in all.")


class Rate:
    """At most so many a second, and as many at once: a bucket of that size, which fills again meanwhile."""

    __slots__ = ("_clock", "_filled_at", "_left", "_size")

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self._size = float(size)
        self._clock = clock
        self._left = self._size
        self._filled_at = clock()

    def is_exceeded(self) -> bool:
        """Count one more, and say whether it is too many."""
        now = self._clock()
        self._left = min(self._size, self._left + (now - self._filled_at) * self._size)
        self._filled_at = now
        if self._left < 1:
            return True
        self._left -= 1
        return False


def timed(bounds: Bounds, scope: Scope, receive: Receive, send: Send) -> tuple[Receive, Send]:
    """`receive` and `send` that wait no longer than they may, where the server itself does not see to it."""
    if GUARDED in scope:
        return receive, send
    owes = True

    async def receive_in_time() -> Message:
        nonlocal owes
        if not owes:
            return await receive()
        try:
            message: Message = await within(bounds.slow_seconds, receive())
        except TimeoutError:
            raise RequestTooSlow("The body did not arrive in time.") from None
        owes = message.get("more_body", False)
        return message

    return receive_in_time, _sent_in_time(bounds, send)


def counted(bounds: Bounds, scope: Scope, receive: Receive, send: Send) -> tuple[Receive, Send]:
    """The same for a WebSocket, whose messages are counted, too."""
    if GUARDED in scope:
        return receive, send
    rate = Rate(bounds.messages_per_second, asyncio.get_running_loop().time)

    async def receive_few() -> Message:
        message = await receive()
        if message["type"] == "websocket.receive" and rate.is_exceeded():
            await send({"type": "websocket.close", "code": FLOOD_CODE, "reason": flood_reason(bounds)})
            return {"type": "websocket.disconnect", "code": FLOOD_CODE}
        return message

    return receive_few, _sent_in_time(bounds, send)


def flood_reason(bounds: Bounds) -> str:
    """Why a WebSocket is closed on which too much is said."""
    return f"More than {bounds.messages_per_second} messages a second."


def _sent_in_time(bounds: Bounds, send: Send) -> Send:
    async def send_in_time(message: Message) -> None:
        try:
            await within(bounds.stalled_seconds, send(message))
        except TimeoutError:
            raise ClientDisconnect from None

    return send_in_time
