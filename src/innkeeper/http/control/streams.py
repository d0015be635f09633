"""The event stream: `WS /api/sessions/{session_id}/events/stream`, a session's log from any place on, then live.

One event is one text message. Where the server can write frames that are made already, many go out in one piece, and
elsewhere one by one. Who does not take what is sent is let go, with its place in the log, and can come back there.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from innkeeper.core.errors import InnkeeperError, Invalid
from innkeeper.core.identity import Caller
from innkeeper.http.control.event_frames import text_of
from innkeeper.http.denials import deny
from innkeeper.http.deps import MAX_CURSOR, House, house_of
from innkeeper.http.gates import admit_socket
from innkeeper.http.presenting import accepted_subprotocol
from innkeeper.http.routes import surface
from innkeeper.services.session_tails import Over, Subscription
from innkeeper.services.stretches import Batch

PERMISSION = "control:read"
STALLED_SECONDS = 30.0
_GOODBYE_SECONDS = 5.0
_HEED_SECONDS = 0.05
_SENT_AT_ONCE = 16
_EXTENSION = "innkeeper.frames"
_SERVER_RESTARTS, _TRY_AGAIN, _SESSION_DELETED, _DISMISSED = 1012, 1013, 4404, 4401

router = surface(prefix="/api/sessions", tags=["Control: events"])


@router.websocket("/{session_id}/events/stream")
async def stream_events(websocket: WebSocket) -> None:
    """The session's events beyond `?after=`, then those that come; `?user_id=` as elsewhere."""
    house = house_of(websocket)
    scope, receive, send = websocket.scope, websocket._receive, websocket._send
    assert (await receive())["type"] == "websocket.connect", "that is how every WebSocket begins"
    try:
        caller = await admit_socket(house.gate, scope, PERMISSION)
        subscription = await _subscribed(websocket, house, caller)
    except Exception as error:  # noqa: BLE001 - whatever it is, the client is told as over HTTP
        await deny(error, house, scope, receive, send)
        return
    house.meter.stream_opened("websocket")
    try:
        await send({"type": "websocket.accept", "subprotocol": accepted_subprotocol(scope)})
        stream = Stream(subscription, scope, receive, send)
        with house.vigils.over(scope, caller, stream.dismiss):
            await stream.run()
    except OSError:  # the client has left
        pass
    finally:
        house.meter.stream_closed("websocket")
        subscription.close()


async def _subscribed(websocket: WebSocket, house: House, caller: Caller) -> Subscription:
    """Raises: whatever a request would be refused with."""
    after = _cursor(websocket.query_params.get("after", "0"))
    services = await house.ready()
    user_id = websocket.query_params.get("user_id")
    session = await services.sessions.get(caller, websocket.path_params["session_id"], user_id)
    return await services.session_tails.subscribe(session, after)


def _cursor(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_CURSOR:
        return int(text)
    raise Invalid(
        f"after: must be the sequence of an event, a whole number from 0 to {MAX_CURSOR}; leave it out to begin at the"
        " beginning.",
        param="after",
    )


class Stream:
    """One connection: a task hears whether the client leaves, and this one sends."""

    def __init__(self, subscription: Subscription, scope: Scope, receive: Receive, send: Send) -> None:
        self._subscription = subscription
        self._receive = receive
        self._send = send
        self._writes_frames = _EXTENSION in scope.get("extensions", {})
        self._dismissal: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def dismiss(self, error: InnkeeperError) -> None:
        """The client may watch no longer."""
        if not self._dismissal.done():
            self._dismissal.set_result(error.message)

    async def run(self) -> None:
        """Until the client leaves, stalls or is dismissed, or there is nothing more to send."""
        sending = asyncio.create_task(self._send_events())
        hearing = asyncio.create_task(self._hear())
        try:
            await asyncio.wait((sending, hearing, self._dismissal), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hearing.cancel()
            sending.cancel()
        if self._dismissal.done() and not sending.done():
            await asyncio.wait((sending,))  # two may not write at a time
            await self._part(_DISMISSED, self._dismissal.result())
        elif sending.done():
            sending.result()

    async def _hear(self) -> None:
        """Return when the client has left. What it says is not heeded, and read no faster than this."""
        while (await self._receive())["type"] != "websocket.disconnect":  # noqa: ASYNC110 - this is about time
            await asyncio.sleep(_HEED_SECONDS)

    async def _send_events(self) -> None:
        subscription = self._subscription
        while (batch := await subscription.next()) is not None:
            try:
                await self._write(batch)
            except TimeoutError:
                await self._part(_TRY_AGAIN, "Too slow to take what was sent.", waits=False)
                return
        if subscription.over is Over.DELETED:
            await self._part(_SESSION_DELETED, "The session was deleted.")
        else:
            await self._part(_SERVER_RESTARTS, "The server is restarting.")

    async def _write(self, batch: Batch) -> None:
        """Raises: TimeoutError if the client takes nothing."""
        if self._writes_frames:
            await self._put({"type": "innkeeper.frames.send", "bytes": batch.joined()})
            self._subscription.after = batch.last
            return
        for frame in batch.parts:
            await self._put({"type": "websocket.send", "text": text_of(frame)})
            self._subscription.after += 1
            if self._subscription.after % _SENT_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _put(self, message: Message) -> None:
        async with asyncio.timeout(STALLED_SECONDS):
            await self._send(message)

    async def _part(self, code: int, why: str, *, waits: bool = True) -> None:
        """Close, saying from where to go on."""
        is_gone = code in (_SESSION_DELETED, _DISMISSED)
        reason = why if is_gone else f"{why} Connect again with ?after={self._subscription.after}."
        closing: Message = {"type": "websocket.close", "code": code, "reason": reason}
        if waits:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._send(closing)
                    return
        if self._writes_frames:
            await self._send({**closing, "type": "innkeeper.frames.drop"})
