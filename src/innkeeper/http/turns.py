"""Turns: one request to an agent, from its hooks to its last byte. Every surface that runs agents uses this.

The context is set before the first hook and stays set until the last one has run; the finalize hooks run
exactly once, when the response is complete, has failed, or has lost its client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from innkeeper.core.changes import Segment
from innkeeper.core.context import RunContext, reset_context, set_context
from innkeeper.core.errors import StorageUnavailable
from innkeeper.core.identity import Caller
from innkeeper.core.runs import StartRun
from innkeeper.http.deps import House, Services, house_of
from innkeeper.services.live import Ending, LiveRun
from innkeeper.services.runs import RunReading

_logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
_DISCONNECT_CHECK_SECONDS = 0.05


class Turn:
    """A run that a request has started, and what must happen when the request ends."""

    def __init__(self, house: House, services: Services, request: Any, context: RunContext) -> None:
        self.services = services
        self.context = context
        self.live: LiveRun | None = None
        self._house = house
        self._request = request
        self._is_finished = False

    @property
    def run(self) -> LiveRun:
        assert self.live is not None, "the turn has been started"
        return self.live

    async def start(self, caller: Caller, start: StartRun) -> LiveRun:
        """Run the hooks, then the agent; whatever is raised, the finalize hooks have run."""
        token = set_context(self.context)
        try:
            if self._house.hooks.before:
                await self._house.hooks.run_before(self._request)
            self.live = await self.services.runs.start(caller, start, self.context)
        except BaseException:
            await self.finish(None)
            raise
        finally:
            reset_context(token)
        return self.live

    async def finish(self, response: Any) -> None:
        """The request has ended: run the finalize hooks, at most once, and book what they tracked."""
        if self._is_finished:
            return
        self._is_finished = True
        if not self._house.hooks.finalize:
            return
        token = set_context(self.context)
        try:
            await asyncio.shield(self._finalize(response))
        finally:
            reset_context(token)

    async def _finalize(self, response: Any) -> None:
        await self._house.hooks.run_finalize(self._request, response)
        if self.live is not None and self.live.ended.done() and (records := self.context.unsettled_records()):
            try:
                await self.services.runs.record_credits(self.live.run.id, records)
            except StorageUnavailable as error:
                _logger.error("credits tracked after run %s are lost: %s", self.live.run.id, error)


async def open_turn(request: HTTPConnection, caller: Caller, start: StartRun) -> Turn:
    """Start a run for this request."""
    house = house_of(request)
    turn = Turn(house, await house.ready(), request, house.new_context(request))
    await turn.start(caller, start)
    return turn


async def wait_for_end(turn: Turn, receive: Receive) -> Ending:
    """The end of the turn's run.

    Raises: ClientDisconnect when the client leaves first (the run then goes on or not, as its request said);
    StorageUnavailable.
    """
    live, runs = turn.run, turn.services.runs
    if live.ended.done():
        return live.ended.result()
    reading = runs.watch(live, after=live.head)
    watch = _Disconnects(receive, reading.close)
    try:
        while await reading.next() is not None:
            pass
        if watch.is_gone:
            raise ClientDisconnect
        return await runs.result(live)
    except BaseException:
        await turn.finish(None)
        raise
    finally:
        watch.cancel()
        reading.close()


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
    """A whole response to a turn: its finalize hooks run after the last byte."""

    def __init__(self, turn: Turn, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(body, status, headers, media_type="application/json")
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._turn.finish(self)


Encode = Callable[[list[Segment]], bytes]


class Stream(Response):
    """A stream of a run's log, encoded by one surface. Frames that are ready together leave in one send.

    `original_response` is what the agent returned, where it returned a stream of its own.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        reading: RunReading,
        encode: Encode,
        *,
        on_trouble: Callable[[BaseException], bytes],
        turn: Turn | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._reading = reading
        self._encode = encode
        self._on_trouble = on_trouble
        self._turn = turn
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})

    @property
    def original_response(self) -> Any:
        return self._turn.context.original_response if self._turn else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = _Disconnects(receive, self._reading.close)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send_log(send)
            if not watch.is_gone:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watch.cancel()
            self._reading.close()
            if self._turn is not None:
                await self._turn.finish(self)

    async def _send_log(self, send: Callable[[Any], Awaitable[None]]) -> None:
        reading, encode = self._reading, self._encode
        try:
            while (batch := await reading.next(HEARTBEAT_SECONDS)) is not None:
                data = encode(batch) if batch else b": keep-alive\n\n"
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        except StorageUnavailable as error:
            await send({"type": "http.response.body", "body": self._on_trouble(error), "more_body": True})
