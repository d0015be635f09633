"""Turns: one request to an agent, from its hooks to its last byte. Every surface that runs agents uses this.

The context is set before the first hook and stays set until the last one has run. A turn is finished once, by
the route or the WebSocket that it came through, after the last byte, whichever way the request ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from innkeeper.core.changes import Segment
from innkeeper.core.context import RunContext, reset_context, set_context
from innkeeper.core.errors import InnkeeperError, StorageUnavailable
from innkeeper.core.identity import Caller
from innkeeper.core.runs import StartRun
from innkeeper.http.claims import claim_of
from innkeeper.http.deps import House, Services, house_of
from innkeeper.http.environments import context_for
from innkeeper.http.initializing import asks_for_initialization, initialize_for
from innkeeper.http.traceparents import parent_of
from innkeeper.services.pauses import ResumeRequest
from innkeeper.services.readings import ReaderGone, RunReading
from innkeeper.services.runs import Started
from innkeeper.services.tails import Ending, Tail

_logger = logging.getLogger(__name__)

_DISCONNECT_CHECK_SECONDS = 0.05
_OPENING_SECONDS = 0.02
"""How long a stream's first frame waits for company; an agent that answers at once then costs one send less."""
_AT_ONCE = 64 * 1024


class Turn:
    """A run that a request has started, and what must happen when the request ends."""

    def __init__(self, house: House, services: Services, request: Any, context: RunContext) -> None:
        self.services = services
        self.context = context
        self.started: Started | None = None
        self.response: Response | None = None
        self._house = house
        self._request = request
        self._is_finished = False

    @property
    def tail(self) -> Tail:
        """The run that this request waits for or reads."""
        assert self.started is not None and self.started.tail is not None, "a run in the background is not waited for"
        return self.started.tail

    @property
    def is_traced(self) -> bool:
        return self._house.is_tracing

    def watch(self) -> RunReading:
        """Read the run: from its beginning, or from here on where the request has steered it."""
        tail = self.tail
        if not self.joins_late:
            return self.services.runs.watch(tail, self.started.after if self.started is not None else 0)
        head = max(tail.head, tail.run.last_seq)
        has_ended = tail.has_ended or tail.run.status.is_terminal
        return self.services.runs.watch(tail, head - 1 if has_ended else head)  # of any run, the end is told

    @property
    def joins_late(self) -> bool:
        """Whether the request joins a run that somebody else had begun, to hear what it says from now on."""
        started = self.started
        return started is not None and started.injection_id is not None and not started.is_repeated

    async def start(self, caller: Caller, start: StartRun) -> Started:
        """Run the hooks, then the agent.

        Raises: what a hook rejects with; what `Runs.start` raises.
        """
        token = set_context(self.context)
        try:
            if self._house.hooks.before:
                await self._house.hooks.run_before(self._request)
            self.started = await self.services.runs.start(caller, start, self.context)
        finally:
            reset_context(token)
        return self.started

    async def resume(self, caller: Caller, resume: ResumeRequest) -> Started:
        """Run the hooks, then let a paused run go on.

        Raises: what a hook rejects with; what `Runs.resume` raises.
        """
        token = set_context(self.context)
        try:
            if self._house.hooks.before:
                await self._house.hooks.run_before(self._request)
            self.started = await self.services.runs.resume(caller, resume, self.context)
        finally:
            reset_context(token)
        return self.started

    async def finish(self) -> None:
        """The request has ended: run the finalize hooks, at most once, then what else waits for the end."""
        if self._is_finished:
            return
        self._is_finished = True
        if self._house.hooks.finalize or not self._is_concluded:
            await asyncio.shield(self._house.keep(self._finalize()))

    @property
    def _tail(self) -> Tail | None:
        return None if self.started is None else self.started.tail

    @property
    def _is_concluded(self) -> bool:
        """Whether nothing is left to do once the hooks have run."""
        tail = self._tail
        return tail is None or (tail.ended.done() and _background_of(self.context) is None)

    async def _finalize(self) -> None:
        set_context(self.context)
        await self._house.hooks.run_finalize(self._request, self.response)
        if self.started is None:
            if self.context.unsettled_records():
                _logger.warning("credits tracked for a request that started no run are not booked")
        elif self.started.is_repeated:
            self.context.unsettled_records()  # booked when the request was made first
        elif self._tail is None:
            await self._book(self.started.run.id)
        elif self._tail.ended.done():
            await self._conclude(self._tail)
        else:
            self._house.keep(self._conclude(self._tail))

    async def _conclude(self, tail: Tail) -> None:
        """When the run has ended as well: the background task of the agent's own response, and late credits."""
        await asyncio.wait([tail.ended])
        if (background := _background_of(self.context)) is not None:
            try:
                await background()
            except Exception as error:
                _logger.error("the background task of run %s failed", tail.run.id, exc_info=error)
        await self._book(tail.run.id)

    async def _book(self, run_id: str) -> None:
        if records := self.context.unsettled_records():
            try:
                await self.services.runs.record_credits(run_id, records)
            except StorageUnavailable as error:
                _logger.error("credits tracked after run %s are lost: %s", run_id, error)
        await self.context.saved()  # others of them may be on their way by themselves


def _background_of(context: RunContext) -> Callable[[], Awaitable[None]] | None:
    """The background task of the response that the agent returned, where it returned one."""
    background = getattr(context.original_response, "background", None)
    return background if callable(background) else None


async def open_turn(request: HTTPConnection, caller: Caller, start: StartRun) -> Turn:
    """Start a run for this request, or find the one that the same request has started before."""
    house = house_of(request)
    claim = claim_of(request, getattr(request, "_body", b""))
    parent = parent_of(request)
    if claim is not None or parent is not None:
        start = replace(start, claim=claim, parent=parent)
    context = context_for(house, request, in_background=start.background)
    services = await house.ready()
    if asks_for_initialization(request):
        await initialize_for(house, services, caller, start.agent_name)
    turn = request.scope["innkeeper.turn"] = Turn(house, services, request, context)
    await turn.start(caller, start)
    return turn


async def resume_turn(request: HTTPConnection, caller: Caller, resume: ResumeRequest) -> Turn:
    """Let a paused run go on for this request."""
    house = house_of(request)
    claim = claim_of(request, getattr(request, "_body", b""))
    context = context_for(house, request)
    services = await house.ready()
    turn = request.scope["innkeeper.turn"] = Turn(house, services, request, context)
    await turn.resume(caller, replace(resume, claim=claim))
    return turn


async def wait_for_end(turn: Turn, receive: Receive) -> Ending:
    """The end of the turn's run.

    Raises: ClientDisconnect when the client leaves first (the run then goes on or not, as its request said);
    StorageUnavailable.
    """
    tail = turn.tail
    watch = _Disconnects(receive, tail.wake)
    try:
        return await turn.services.runs.result(tail, lambda: watch.is_gone)
    except ReaderGone:
        raise ClientDisconnect from None
    finally:
        watch.cancel()


class _Disconnects:
    """Calls `on_disconnect` when the client leaves; costs a timer, and a task only where a run takes time."""

    def __init__(self, receive: Receive, on_disconnect: Callable[[], None]) -> None:
        self._receive = receive
        self._on_disconnect = on_disconnect
        self._task: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_DISCONNECT_CHECK_SECONDS, self._begin)
        self.is_gone = False

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self._on_disconnect()

    def cancel(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


class Answer(Response):
    """A whole response to a turn. What Starlette would make of its headers is known, so it is not asked."""

    media_type = "application/json"

    def __init__(self, turn: Turn, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.encode("latin-1"), value.encode("latin-1")))
        turn.response = self


Encode = Callable[[list[Segment]], bytes]


class Stream(Response):
    """A stream of a run's log, encoded by one surface. Frames that are ready together leave in one send.

    `original_response` is what the agent returned, where it returned a stream of its own. `at_end` is asked for
    what must follow the log, and `farewell`, with the cursor, for what tells a reader that this process leaves. It ends
    once the credential of its request opens nothing any more; the run itself does not.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        reading: RunReading,
        encode: Encode,
        *,
        on_trouble: Callable[[BaseException], bytes],
        at_end: Callable[[], bytes] = bytes,
        farewell: Callable[[int], bytes] | None = None,
        turn: Turn | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._reading = reading
        self._encode = encode
        self._on_trouble = on_trouble
        self._at_end = at_end
        self._farewell = farewell
        self._context = turn.context if turn is not None else None  # not the turn, which knows its response
        self._has_begun = False
        self._is_complete = False
        if turn is not None:
            turn.response = self
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})

    @property
    def original_response(self) -> Any:
        return self._context.original_response if self._context else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = _Disconnects(receive, self._reading.close)
        house: House = scope["app"].state.innkeeper
        house.meter.stream_opened("sse")
        try:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            with house.vigils.over(scope, scope["innkeeper.caller"], self._dismiss):
                await self._send_log(start, send, house.heartbeat_seconds)
            if not watch.is_gone and not self._is_complete:
                await send({"type": "http.response.body", "body": self._last_words(), "more_body": False})
        finally:
            house.meter.stream_closed("sse")
            watch.cancel()
            self._reading.close()

    def _dismiss(self, error: InnkeeperError) -> None:
        """The reader may read no further."""
        last_words, self._farewell = self._on_trouble(error), None
        self._at_end = lambda: last_words
        self._reading.close()

    def _last_words(self) -> bytes:
        if self._farewell is not None and self._reading.is_sent_away:
            return self._farewell(self._reading.after) + self._at_end()
        return self._at_end()

    async def _send_log(self, start: Message, send: Callable[[Any], Awaitable[None]], heartbeat: float) -> None:
        reading = self._reading
        opening: list[Segment] = []
        try:
            while len(opening) < 2 and (batch := await reading.next(_OPENING_SECONDS)):
                opening += batch
            self._has_begun = True
            await send(start)
            if opening:
                await self._send_batch(opening, send)
            while not self._is_complete and (batch := await reading.next(heartbeat)) is not None:
                await self._send_batch(batch, send)
        except InnkeeperError as error:
            await self._send_trouble(error, start, send, opening)

    async def _send_batch(self, batch: list[Segment], send: Callable[[Any], Awaitable[None]]) -> None:
        """What came next, or a sign of life; what is known to be the last takes the end of the response along.

        Who does not read shall not have much waiting: a large batch is let go of as it is sent.
        """
        if sum(len(segment.data) for segment in batch) <= _AT_ONCE:
            data = self._encode(batch) if batch else b": keep-alive\n\n"
        else:
            data = await self._send_large(batch, send)
        if self._reading.is_complete:
            self._is_complete = True
            data += self._last_words()
        if data or self._is_complete:
            await send({"type": "http.response.body", "body": data, "more_body": not self._is_complete})

    async def _send_large(self, batch: list[Segment], send: Callable[[Any], Awaitable[None]]) -> bytes:
        """Send a batch in pieces, but for the last one, and empty it."""
        data = b""
        batch.reverse()
        while batch:
            data += self._encode([batch.pop()])
            place = 0
            while len(data) - place > _AT_ONCE:
                await send({"type": "http.response.body", "body": data[place : place + _AT_ONCE], "more_body": True})
                place += _AT_ONCE
            data = data[place:]
        return data

    async def _send_trouble(
        self, error: InnkeeperError, start: Message, send: Callable[[Any], Awaitable[None]], opening: list[Segment]
    ) -> None:
        """The store is away, or the log is gone: the stream ends here, with what was ready and the error."""
        self._at_end = bytes
        data = self._on_trouble(error)
        if not self._has_begun:
            await send(start)
            data = (self._encode(opening) if opening else b"") + data
        await send({"type": "http.response.body", "body": data, "more_body": True})
