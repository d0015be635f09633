"""Exchanges: one message, handed to the SDK, and its answer: whole, or a stream once there is progress to tell.

Messages of today's protocol are answered by the SDK's own manager, which begins and ends with each. Those of clients
that begin with a handshake pass `Call` instead of the SDK's transport, which cuts its streams off when a server begins
to shut down, and knows no run that may end first.
Importing this module imports the SDK.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.server.runner import modern_error_data, serve_one
from mcp.server.streamable_http import check_accept_headers
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp.types import DEFAULT_NEGOTIATED_VERSION, JSONRPCError, JSONRPCNotification, JSONRPCResponse
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from innkeeper.http.mcp.tools import make_server

_server = make_server()

_MOST_UNREAD = 64
"""Notifications that may wait for a slow reader; what is told beyond them is left out, as progress may be."""
_NO_SIZE = 2**40  # the body has been read and bounded before
_STREAM = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


async def exchange(scope: Scope, receive: Receive, send: Send, message: Mapping[str, Any], heartbeat: float) -> None:
    """Answer one message, which is also what `receive` gives. A comment is sent after `heartbeat` silent seconds."""
    request = Request(scope, receive)
    version = request.headers.get("mcp-protocol-version")
    if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
        manager = StreamableHTTPSessionManager(_server, stateless=True, max_request_body_size=_NO_SIZE)
        async with manager.run():
            await manager.handle_request(scope, receive, send)
    elif not all(check_accept_headers(request)):
        await Response("Accept: application/json, text/event-stream", 406)(scope, receive, send)
    elif "id" not in message:
        await Response(status_code=202)(scope, receive, send)
    else:
        await request.body()  # what follows it is that the client has gone
        await _answer(Call(request, message), version or DEFAULT_NEGOTIATED_VERSION, receive, send, heartbeat)


async def _answer(call: Call, version: str, receive: Receive, send: Send, heartbeat: float) -> None:
    answering = asyncio.create_task(call.answer(version))
    leaving = asyncio.create_task(_gone(receive))
    leaving.add_done_callback(lambda _: answering.cancel())
    try:
        await call.send_to(send, heartbeat)
    finally:
        leaving.cancel()
        answering.cancel()
        await asyncio.wait({answering, leaving})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Call:
    """One request, as the SDK knows it while it is answered (its `DispatchContext`)."""

    can_send_request = False

    def __init__(self, request: Request, message: Mapping[str, Any]) -> None:
        self.transport = TransportContext(kind="streamable-http", can_send_request=False, headers=request.headers)
        self.message_metadata = ServerMessageMetadata(request_context=request, can_send_request=False)
        self.request_id: int | str = message["id"]
        self.cancel_requested = anyio.Event()
        self._method: str = message["method"]
        self._params: Mapping[str, Any] | None = message.get("params")
        meta = (self._params or {}).get("_meta")
        self._token = meta.get("progressToken") if isinstance(meta, Mapping) else None
        self._unread: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._result: bytes | None = None
        self._is_over = False

    async def answer(self, version: str) -> None:
        """Have the SDK answer."""
        try:
            connection = Connection.from_envelope(version, None, None)
            told = await serve_one(_server, self, self._method, self._params, connection=connection, lifespan_state={})
            self._result = _json(JSONRPCResponse(jsonrpc="2.0", id=self.request_id, result=told))
        except Exception as error:  # noqa: BLE001 - the SDK tells of each what may be told
            self._result = _json(JSONRPCError(jsonrpc="2.0", id=self.request_id, error=modern_error_data(error)))
        finally:
            self._is_over = True
            self._changed.set()

    async def send_to(self, send: Send, heartbeat: float) -> None:
        """Send what there is to tell, until the answer has been sent or the client has gone."""
        await self._wait(heartbeat)
        if self._is_over and not self._unread:
            if self._result is not None:
                headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-cache")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": self._result})
            return
        await send({"type": "http.response.start", "status": 200, "headers": list(_STREAM)})
        while True:
            is_over, unread = self._is_over, b"".join(map(_event, self._unread))
            self._unread.clear()
            if is_over:
                last = b"" if self._result is None else _event(self._result)
                await send({"type": "http.response.body", "body": unread + last})
                return
            await send({"type": "http.response.body", "body": unread or b": keep-alive\n\n", "more_body": True})
            await self._wait(heartbeat)

    async def _wait(self, seconds: float) -> None:
        if not self._unread and not self._is_over:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)

    # what the SDK asks of it

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        if len(self._unread) < _MOST_UNREAD:
            told = dict(params) if params is not None else None
            self._unread.append(_json(JSONRPCNotification(jsonrpc="2.0", method=method, params=told)))
            self._changed.set()

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._token is not None:
            told = {"progressToken": self._token, "progress": progress, "total": total, "message": message}
            await self.notify("notifications/progress", {key: one for key, one in told.items() if one is not None})


def _json(message: JSONRPCResponse | JSONRPCError | JSONRPCNotification) -> bytes:
    return message.model_dump_json(by_alias=True, exclude_none=True).encode()


def _event(data: bytes) -> bytes:
    return b"event: message\ndata: " + data + b"\n\n"
