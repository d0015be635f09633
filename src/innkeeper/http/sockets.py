"""The native WebSocket: any number of turns on one connection, one after the other.

A client's message is a turn in the shape of `POST /chat`; the answer is the run's events, one JSON text a
message, the last of them `done`. What cannot be understood is answered with an `error` frame, and the
connection stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket, WebSocketDisconnect

from innkeeper.core.errors import Forbidden, ForeignHost, InnkeeperError, Invalid, TooBusy, Unauthorized
from innkeeper.core.identity import Caller
from innkeeper.http.bodies import check, parse_json
from innkeeper.http.chat import stream_router
from innkeeper.http.deps import House, house_of
from innkeeper.http.frames import error_payload
from innkeeper.http.problems import error_facts
from innkeeper.http.requests import ChatRequest
from innkeeper.http.turns import Turn

_logger = logging.getLogger(__name__)

PERMISSION = "runs:write"
MAX_WAITING = 10
MAX_MESSAGE = 1024 * 1024
_REFUSED = 4401, 4403, 4421


@stream_router.websocket("/ws/chat")
async def chat_socket(websocket: WebSocket) -> None:
    """Chat over a WebSocket."""
    house = house_of(websocket)
    try:
        caller = house.gate.admit(websocket.scope, PERMISSION)
    except (ForeignHost, Forbidden, Unauthorized) as error:
        await websocket.close(_close_code(error), error.message[:120])
        return
    assert caller is not None, "the permission of this route is not public"
    await websocket.accept()
    await Conversation(websocket, house, caller).run()


def _close_code(error: InnkeeperError) -> int:
    unauthorized, forbidden, misdirected = _REFUSED
    if isinstance(error, Unauthorized):
        return unauthorized
    return misdirected if isinstance(error, ForeignHost) else forbidden


class Conversation:
    """One connection: a task reads, turns are answered in the order in which they came."""

    def __init__(self, websocket: WebSocket, house: House, caller: Caller) -> None:
        self._websocket = websocket
        self._house = house
        self._caller = caller
        self._inbox: deque[str] = deque()
        self._arrived = asyncio.Event()
        self._is_gone = False
        self._turn: Turn | None = None
        self._close_reading: Any = None

    async def run(self) -> None:
        """Until the client leaves."""
        reader = asyncio.create_task(self._read())
        try:
            while (text := await self._next()) is not None:
                await self._answer(text)
        except WebSocketDisconnect:
            pass
        finally:
            reader.cancel()

    async def _next(self) -> str | None:
        while not self._inbox:
            if self._is_gone:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._inbox.popleft()

    async def _read(self) -> None:
        try:
            while True:
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                text = message.get("text")
                if text is None:
                    await self._send_error(Invalid("Send text messages with JSON."))
                elif len(text) > MAX_MESSAGE:
                    await self._send_error(Invalid(f"A message may have at most {MAX_MESSAGE} characters."))
                elif len(self._inbox) >= MAX_WAITING:
                    await self._send_error(TooBusy(f"{MAX_WAITING} turns wait on this connection already."))
                else:
                    self._inbox.append(text)
                    self._arrived.set()
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            self._is_gone = True
            self._arrived.set()
            if self._close_reading is not None:
                self._close_reading()

    async def _answer(self, text: str) -> None:
        """One turn, from its message to its `done`."""
        turn: Turn | None = None
        try:
            body = check(ChatRequest, parse_json(text.encode()))
            services = await self._house.ready()
            turn = Turn(self._house, services, self._websocket, self._house.new_context(self._websocket))
            await turn.start(self._caller, body.start("/ws/chat", stream=True))
            await self._send_events(turn)
        except WebSocketDisconnect:
            raise
        except Exception as error:
            if not isinstance(error, InnkeeperError | HTTPException | ValidationError | UnicodeEncodeError):
                _logger.error("a turn on a WebSocket failed", exc_info=error)
            await self._send_error(error)
        finally:
            if turn is not None:
                await turn.finish()

    async def _send_events(self, turn: Turn) -> None:
        reading = turn.services.runs.watch(turn.run)
        self._close_reading = reading.close
        if self._is_gone:
            reading.close()
        try:
            while (batch := await reading.next()) is not None:
                for segment in batch:
                    for data in segment.payloads():
                        await self._websocket.send_text(data.decode())
        except InnkeeperError as error:
            await self._send_error(error)
        finally:
            self._close_reading = None
            reading.close()

    async def _send_error(self, error: Exception) -> None:
        await self._websocket.send_text(error_payload(error_facts(error)).decode())


sockets_are_mounted = True
