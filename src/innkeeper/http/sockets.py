"""The native WebSocket: any number of turns on one connection, one after the other.

A client's message is a turn in the shape of `POST /chat`; the answer is the run's events, one JSON text a
message, the last of them `done`, or `requires_action` where the run waits for people: a frame of type `resume` answers,
and is a turn that goes on. Frames of type `inject` and `cancel` are acted upon at once, between the events of the turn
that runs. What cannot be understood is answered with an `error` frame, and the connection stays.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from innkeeper.core.errors import (
    InnkeeperError,
    Invalid,
    TooBusy,
)
from innkeeper.core.identity import Caller
from innkeeper.http.actions import ResumeBody
from innkeeper.http.admissions import GOING_AWAY, admitted, close_code, readmitted
from innkeeper.http.bodies import check, parse_json
from innkeeper.http.chat import stream_router
from innkeeper.http.deps import House, Services, house_of
from innkeeper.http.environments import context_for
from innkeeper.http.frames import error_payload, farewell_payload
from innkeeper.http.problems import error_facts
from innkeeper.http.requests import ChatRequest, InjectRequest
from innkeeper.http.traceparents import parent_of
from innkeeper.http.trails import tell_on_socket
from innkeeper.http.turns import Turn

Begin = Callable[[Turn], Awaitable[None]]

_logger = logging.getLogger(__name__)

PERMISSION = "runs:write"
MAX_WAITING = 10
MAX_MESSAGE = 1024 * 1024


@stream_router.websocket("/ws/chat")
async def chat_socket(websocket: WebSocket) -> None:
    """Chat over a WebSocket."""
    house = house_of(websocket)
    caller = await admitted(websocket, house, PERMISSION)
    if caller is None:
        return
    house.meter.stream_opened("websocket")
    try:
        await Conversation(websocket, house, caller).run()
    finally:
        house.meter.stream_closed("websocket")


class Conversation:
    """One connection: a task reads, turns are answered in the order in which they came."""

    def __init__(self, websocket: WebSocket, house: House, caller: Caller) -> None:
        self._websocket = websocket
        self._house = house
        self._caller = caller
        self._inbox: deque[str] = deque()
        self._arrived = asyncio.Event()
        self._is_gone = False
        self._refusal: InnkeeperError | None = None
        self._turn: Turn | None = None
        self._close_reading: Any = None
        self._services: Services | None = None
        self._cursor: tuple[str | None, int | None] = None, None
        self._run_id: str | None = None  # the newest turn's, whose session is the one that the client talks in
        self._begun = asyncio.Event()
        self._begun.set()

    async def run(self) -> None:
        """Until the client leaves."""
        self._services = await self._house.ready()
        reader = asyncio.create_task(self._read())
        self._services.runs.closing.add_done_callback(self._leave)
        try:
            with self._house.vigils.over(self._websocket.scope, self._caller, self._dismiss):
                while (text := await self._next()) is not None:
                    await self._answer(text)
            await self._say_farewell()
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            self._services.runs.closing.remove_done_callback(self._leave)
            reader.cancel()

    def _leave(self, _: object) -> None:
        self._arrived.set()

    def _dismiss(self, error: InnkeeperError) -> None:
        """The client may stay no longer; what it has begun goes on without it."""
        self._refusal = error
        self._arrived.set()
        if self._close_reading is not None:
            self._close_reading()

    async def _say_farewell(self) -> None:
        """The client may stay no longer, or the server leaves: then it hears from where its last run can be read on."""
        if self._refusal is not None and not self._is_gone:
            await self._send_error(self._refusal)
            await self._websocket.close(close_code(self._refusal), self._refusal.message[:120])
        elif not self._is_gone:
            run_id, cursor = self._cursor
            await self._websocket.send_text(farewell_payload(run_id, cursor).decode())
            await self._websocket.close(GOING_AWAY, "The server is restarting.")

    async def _next(self) -> str | None:
        assert self._services is not None, "the connection has been opened"
        while not self._inbox or self._refusal is not None:
            if self._is_gone or self._refusal is not None or self._services.runs.closing.done():
                return None
            self._arrived.clear()
            await self._arrived.wait()
        self._begun.clear()
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
                elif '"type"' in text and (frame := _control(text)) is not None:
                    await self._act(frame)
                elif len(self._inbox) >= MAX_WAITING:
                    await self._send_error(TooBusy(f"{MAX_WAITING} turns wait on this connection already."))
                elif sum(map(len, self._inbox)) + len(text) > MAX_MESSAGE:
                    await self._send_error(TooBusy("The turns that wait on this connection are too large in all."))
                else:
                    self._inbox.append(text)
                    self._arrived.set()
                    if self._turn is None:
                        self._begun.clear()
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
            message = parse_json(text.encode())
            begin = self._resumption(message) if _resumes(message) else self._start(message)
            await self._know_again()
            services = await self._house.ready()
            turn = Turn(self._house, services, self._websocket, context_for(self._house, self._websocket))
            await begin(turn)
        except WebSocketDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - hooks and resolvers may raise anything; it is logged there
            await self._send_failure(error)
        finally:
            if not self._inbox:  # else what has been read since is about the next turn
                self._begun.set()
            if turn is not None:
                await turn.finish()

    def _start(self, message: Any) -> Begin:
        """Raises: ValidationError, Invalid."""
        body = check(ChatRequest, message)
        if body.background:
            raise Invalid("A turn on a WebSocket cannot be in the background.", param="background")
        start = replace(body.start("/ws/chat", stream=True), parent=parent_of(self._websocket))

        async def begin(turn: Turn) -> None:
            started = await turn.start(self._caller, start)
            if started.injection_id is not None:
                await self._send_injected(started.injection_id, started.run.id)
            await self._send_events(turn)

        return begin

    def _resumption(self, message: Mapping[str, Any]) -> Begin:
        """Raises: ValidationError."""
        body = check(ResumeFrame, {name: value for name, value in message.items() if name != "type"})
        resume = body.request(body.run_id, stream=True)

        async def begin(turn: Turn) -> None:
            caller = self._caller
            started = await turn.resume(caller, resume)
            await tell_on_socket(caller, self._websocket, self._house)
            if started.left:
                told = {"type": "waiting", "run_id": body.run_id, "left": started.left}
                await self._websocket.send_text(json.dumps(told))
            else:
                await self._send_events(turn)

        return begin

    async def _know_again(self) -> None:
        """A token may have been revoked since the connection was made.

        Raises: Unauthorized, Forbidden, StorageUnavailable.
        """
        self._caller = await readmitted(self._websocket, self._house, PERMISSION)

    async def _send_events(self, turn: Turn) -> None:
        reading = turn.watch()
        self._turn, self._run_id = turn, turn.tail.run.id
        self._begun.set()
        self._close_reading = reading.close
        if self._is_gone or self._refusal is not None:
            reading.close()
        try:
            while (batch := await reading.next()) is not None:
                for segment in batch:
                    for data in segment.payloads():
                        await self._websocket.send_text(data.decode())
                self._cursor = turn.tail.run.id, reading.after
        except InnkeeperError as error:
            await self._send_error(error)
        finally:
            self._close_reading = self._turn = None
            reading.close()

    # steering

    async def _act(self, frame: Mapping[str, Any]) -> None:
        """Carry out a frame that is not a turn; one that follows a turn at once is about that turn."""
        await self._begun.wait()
        try:
            await self._know_again()
            if frame["type"] == "inject":
                await self._inject(check(InjectRequest, frame))
            elif frame["type"] == "cancel":
                await self._cancel()
            else:
                raise Invalid('type: must be "inject", "cancel" or "resume"; a turn has none.', param="type")
        except WebSocketDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - hooks and resolvers may raise anything; it is logged there
            await self._send_failure(error)

    async def _inject(self, body: InjectRequest) -> None:
        assert self._services is not None, "the connection has been opened"
        names_none = body.run_id is None and body.session_id is None and body.agent_name is None
        run_id = self._run_id if names_none else body.run_id
        caller = self._caller  # which another message may replace meanwhile
        injection, _ = await self._services.injections.accept(
            caller,
            body.message,
            agent_name=body.agent_name,
            session_id=body.session_id,
            run_id=run_id,
            user_id=body.user_id,
        )
        await tell_on_socket(caller, self._websocket, self._house)
        await self._send_injected(injection.id, injection.first_run_id)

    async def _send_injected(self, injection_id: str, run_id: str | None) -> None:
        told = {"type": "injected", "status": "injected", "injection_id": injection_id, "run_id": run_id}
        await self._websocket.send_text(json.dumps(told))

    async def _cancel(self) -> None:
        """End the turn that runs; its `done` says so."""
        if self._turn is None:
            raise Invalid("No turn is under way on this connection.", param="type")
        caller = self._caller
        await self._turn.services.runs.cancel(caller, self._turn.tail.run.id)
        await tell_on_socket(caller, self._websocket, self._house)

    async def _send_failure(self, error: Exception) -> None:
        if self._websocket.application_state is WebSocketState.DISCONNECTED:
            return
        if not isinstance(error, InnkeeperError | HTTPException | ValidationError | UnicodeEncodeError):
            _logger.error("a message on a WebSocket failed", exc_info=error)
        await self._send_error(error)

    async def _send_error(self, error: Exception) -> None:
        await self._websocket.send_text(error_payload(error_facts(error)).decode())


class ResumeFrame(ResumeBody):
    """The body of `POST /runs/{run_id}/resume`, with the run."""

    run_id: str


def _resumes(message: Any) -> bool:
    return isinstance(message, dict) and message.get("type") == "resume"


def _control(text: str) -> Mapping[str, Any] | None:
    """The frame if it has a type of those that are acted upon at once; anything else is a turn, or an error."""
    try:
        frame = parse_json(text.encode())
    except (InnkeeperError, UnicodeEncodeError):
        return None
    is_control = isinstance(frame, dict) and frame.get("type") is not None and not _resumes(frame)
    return frame if is_control else None


sockets_are_mounted = True
