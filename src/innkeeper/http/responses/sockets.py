"""`WS /v1/responses`: any number of responses on one connection, one after the other.

A client's message is `response.create` with the fields of `POST /v1/responses`; the events answer it, one JSON text a
message. What cannot be understood is answered with an `error`, and the connection stays. With `"generate": false`
nothing is run: what is given is kept on this connection for the next to follow, as are responses that are not stored.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from innkeeper.core.errors import (
    InnkeeperError,
    Invalid,
    ShuttingDown,
    TooBusy,
)
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.runs import Run, RunStatus, StartRun
from innkeeper.core.times import Instant
from innkeeper.http.admissions import GOING_AWAY, admitted, close_code, readmitted
from innkeeper.http.bodies import check, parse_json
from innkeeper.http.deps import House, Services, house_of
from innkeeper.http.environments import context_for
from innkeeper.http.problems import classified
from innkeeper.http.responses.answering import watched
from innkeeper.http.responses.events import ResponseEvents
from innkeeper.http.responses.frames import data_of
from innkeeper.http.responses.items import read_input
from innkeeper.http.responses.memories import Memory
from innkeeper.http.responses.objects import Json, response, response_id
from innkeeper.http.responses.preparing import (
    answers_by_our_names,
    find_previous,
    is_kept,
    prepare,
    read,
    refusals_by_our_names,
)
from innkeeper.http.responses.requests import ResponseRequest, check_request, echoed
from innkeeper.http.responses.resuming import still_asked
from innkeeper.http.responses.routes import router
from innkeeper.http.responses.wholes import told_at_once
from innkeeper.http.traceparents import parent_of
from innkeeper.http.trails import tell_on_socket
from innkeeper.http.turns import Turn
from innkeeper.services.readings import RunReading

_logger = logging.getLogger(__name__)

PATH = "/v1/responses"
PERMISSION = "runs:write"
MAX_WAITING = 10
MAX_MESSAGE = 1024 * 1024


@router.websocket("")
async def responses_socket(websocket: WebSocket) -> None:
    """Responses over a WebSocket."""
    house = house_of(websocket)
    caller = await admitted(websocket, house, PERMISSION)
    if caller is None:
        return
    house.meter.stream_opened("websocket")
    try:
        await Connection(websocket, house, caller, await house.ready()).run()
    finally:
        house.meter.stream_closed("websocket")


class Connection:
    """One connection: a task reads, requests are answered in the order in which they came."""

    def __init__(self, websocket: WebSocket, house: House, caller: Caller, services: Services) -> None:
        self._websocket = websocket
        self._house = house
        self._caller = caller
        self._services = services
        self._memory = Memory()
        self._inbox: deque[str] = deque()
        self._arrived = asyncio.Event()
        self._is_gone = False
        self._refusal: InnkeeperError | None = None
        self._reading: RunReading | None = None

    async def run(self) -> None:
        """Until the client leaves, or may stay no longer."""
        reader = asyncio.create_task(self._read())
        closing = self._services.runs.closing
        closing.add_done_callback(self._look_up)
        try:
            with self._house.vigils.over(self._websocket.scope, self._caller, self._dismiss):
                while (text := await self._next()) is not None:
                    await self._answer(text)
            await self._say_farewell()
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            closing.remove_done_callback(self._look_up)
            reader.cancel()

    def _look_up(self, _: object = None) -> None:
        self._arrived.set()

    def _dismiss(self, error: InnkeeperError) -> None:
        self._refusal = error
        self._stop_reading()
        self._look_up()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()

    async def _say_farewell(self) -> None:
        if self._is_gone:
            return
        error = self._refusal or ShuttingDown("The server is shutting down. Connect again shortly.")
        await self._send_error(error)
        code = GOING_AWAY if self._refusal is None else close_code(error)
        await self._websocket.close(code, error.message[:120])

    async def _next(self) -> str | None:
        """The next message; who has left is not answered any more, so that nothing runs for nobody."""
        while not self._inbox or self._is_gone or self._refusal is not None:
            if self._is_gone or self._refusal is not None or self._services.runs.closing.done():
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
                elif len(self._inbox) >= MAX_WAITING or sum(map(len, self._inbox)) + len(text) > MAX_MESSAGE:
                    await self._send_error(TooBusy("Too much waits on this connection already."))
                else:
                    self._inbox.append(text)
                    self._look_up()
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            self._is_gone = True
            self._stop_reading()
            self._look_up()

    # answering

    async def _answer(self, text: str) -> None:
        """One request, from its message to its last event."""
        stream_id: str | None = None
        turn: Turn | None = None
        try:
            fields = _fields(parse_json(text.encode()))
            stream_id = fields["stream_id"] if isinstance(fields.get("stream_id"), str) else None
            body = check(ResponseRequest, {**fields, "stream": True})
            if body.background:
                raise Invalid("A response on a WebSocket cannot be in the background.", param="background")
            self._caller = await readmitted(self._websocket, self._house, PERMISSION)
            if fields.get("generate") is False:
                await self._warm_up(body, stream_id)
                return
            turn = Turn(self._house, self._services, self._websocket, context_for(self._house, self._websocket))
            await self._respond(body, turn, stream_id)
        except WebSocketDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - hooks and resolvers may raise anything; it is logged there
            await self._send_failure(error, stream_id)
        finally:
            if turn is not None:
                await turn.finish()

    async def _respond(self, body: ResponseRequest, turn: Turn, stream_id: str | None) -> None:
        check_request(body)
        known = self._memory.find(body.previous_response_id, body.end_user)
        asked = body if known is None else body.model_copy(update={"previous_response_id": None})
        prepared = await prepare(self._services, self._caller, asked, PATH, known or ())
        what = prepared.what
        if isinstance(what, StartRun):
            what = replace(what, request=echoed(body), parent=parent_of(self._websocket))
            with refusals_by_our_names():
                await turn.start(prepared.caller, what)
            await tell_on_socket(prepared.caller, self._websocket, self._house)
            events = await self._send_events(turn, 0, stream_id)
            if not what.recorded:
                self._remember(events, what.messages, body.end_user)
            return
        with answers_by_our_names():
            started = await turn.resume(prepared.caller, what)
        await tell_on_socket(prepared.caller, self._websocket, self._house)
        if started.tail is not None:
            events = await self._send_events(turn, started.after, stream_id)
            if not is_kept(started.run):
                self._remember(events, started.run.input, body.end_user)
            return
        run = await self._services.runs.get(prepared.caller, started.run.id)
        await self._send_whole(await still_asked(self._services, run), stream_id)

    def _remember(self, events: ResponseEvents | None, messages: Sequence[Message], user: str | None) -> None:
        """What has ended can be followed; what waits for people is answered where it is kept meanwhile."""
        if events is None or events.is_paused:
            return
        said = read_input(events.response(is_whole=True)["output"], {}).messages
        self._memory.keep(response_id(events.run), (*messages, *said), user)

    async def _warm_up(self, body: ResponseRequest, stream_id: str | None) -> None:
        """Keep what is given, and answer that nothing was said."""
        check_request(body)
        agent = await self._house.agents.find(body.model)
        before = self._memory.find(body.previous_response_id, body.end_user)
        if before is None and body.previous_response_id is not None:
            previous = await find_previous(self._services, self._caller, body.previous_response_id, body.end_user)
            before = tuple(await self._services.sessions.until(self._caller, previous.id))
        given = await read(self._services, self._caller, body)
        run = _nothing(self._house.new_id(), self._caller, agent.name, {**echoed(body), "store": False})
        self._memory.keep(response_id(run), (*(before or ()), *given.messages), body.end_user)
        await self._send_whole(response(run, "completed"), stream_id)

    async def _send_events(self, turn: Turn, after_seq: int, stream_id: str | None) -> ResponseEvents | None:
        """All events that the run's log stands for beyond `after_seq`; `None` if the reader has gone first."""
        run = turn.tail.run
        reading = self._reading = watched(turn)
        events = ResponseEvents(run)
        if self._is_gone or self._refusal is not None:
            reading.close()
        try:
            while (batch := await reading.next()) is not None:
                for segment in batch:
                    for event in events.read(segment):
                        if segment.last_seq > after_seq:
                            await self._send(event, stream_id)
        finally:
            self._reading = None
            reading.close()
        return events if events.status not in ("queued", "in_progress") else None

    async def _send_whole(self, shown: Json, stream_id: str | None) -> None:
        """A response about which nothing more is to be told."""
        for event in told_at_once(shown):
            await self._send(event, stream_id)

    async def _send(self, event: Mapping[str, Any], stream_id: str | None) -> None:
        told = event if stream_id is None else {**event, "stream_id": stream_id}
        await self._websocket.send_text(data_of(told).decode())

    async def _send_failure(self, error: Exception, stream_id: str | None) -> None:
        if self._websocket.application_state is WebSocketState.DISCONNECTED:
            return
        if not isinstance(error, InnkeeperError | HTTPException | ValidationError | UnicodeEncodeError):
            _logger.error("a message on a WebSocket failed", exc_info=error)
        await self._send_error(error, stream_id)

    async def _send_error(self, error: Exception, stream_id: str | None = None) -> None:
        problem, told = classified(error)
        status = 400 if problem.status == 422 else problem.status
        await self._send({"type": "error", "status": status, "error": told}, stream_id)


def _fields(frame: Any) -> dict[str, Any]:
    """The fields of a `response.create`. Raises: Invalid."""
    if not isinstance(frame, dict) or frame.get("type") != "response.create":
        raise Invalid('type: send {"type": "response.create"} with the fields of a response.', param="type")
    return {name: value for name, value in frame.items() if name != "type"}


def _nothing(new_id: str, caller: Caller, agent_name: str, request: Mapping[str, object]) -> Run:
    """A run that there never was, for the response object that stands for it."""
    return Run(
        id=f"run_{new_id}",
        owner=caller.owner,
        user_id=caller.owner.user,
        session_key="",
        session_id="",
        agent_name=agent_name,
        endpoint=PATH,
        status=RunStatus.COMPLETED,
        turn=0,
        created_at=Instant(time.time_ns() // 1000),
        request=request,
    )


sockets_are_mounted = True
