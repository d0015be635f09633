"""Servers: uvicorn, told how we want to be served, and how to end.

On SIGTERM or SIGINT the port is given up, and who is connected is served for a moment longer; then runs are drained
while their clients still listen, then connections end, then the app's lifespan.
Invariant: the process is gone `drain_seconds` and 9 s after the first signal, with 0, whatever user code does: Python
would wait for the threads of synchronous agents, so it is not asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.lifespan.on import LifespanOn

from innkeeper.apps.loading import kernel_of
from innkeeper.cli.connections import BoundedProtocol, bounds_in
from innkeeper.cli.endings import Depart, leave_after, leave_by_alarm, longest_end, on_signal_anywhere
from innkeeper.cli.farewells import Farewell, close_after_answer, close_idle
from innkeeper.cli.frames import FramesProtocol
from innkeeper.cli.listeners import keep_from_forks, listen_on, turn_away, waiting
from innkeeper.cli.patience import Rounds
from innkeeper.cli.restarts import Restart, Ways
from innkeeper.config import Settings
from innkeeper.wiring import bounds_of

_logger = logging.getLogger("innkeeper")

_CONNECTIONS_SECONDS = 7.0
_LAST_ARRIVALS_SECONDS = 0.02
_LAST_REQUESTS_SECONDS = 0.5
_LEFTOVER_SECONDS = 1.0
_LOOK_AROUND_SECONDS = 0.05
_LAST_FRAMES_SECONDS = 0.1


def serve_app(
    app: Any,
    settings: Settings,
    listener: socket.socket,
    on_start: Callable[[], None],
    *,
    shares_port: bool = False,
    heeds_ctrl_c: bool = True,
    ways: Ways,
    successor: Restart | None = None,
) -> bool:
    """Serve `app` on `listener` until a signal ends it; `on_start` is called once it answers.

    Returns whether it ended in good order; a second Ctrl-C cuts that short. `shares_port` says that other processes
    hold the same socket, and may go on. Who does not heed Ctrl-C leaves it to another process to say what it means.
    `ways` are for apps inside of this one to find; where there is to be a `successor`, the port is left to it.

    Raises: whatever kept the app from starting.
    """
    server = Server(app, settings, on_start, shares_port=shares_port, heeds_ctrl_c=heeds_ctrl_c, successor=successor)
    server.restart, server.kill = ways.restart, ways.kill
    loop = (server.config.get_loop_factory() or asyncio.new_event_loop)()
    _complete(loop, loop.create_task(server.serve([listener])))
    return not server.force_exit


def _complete(loop: asyncio.AbstractEventLoop, serving: asyncio.Task[None]) -> None:
    """Run the loop until `serving` has ended. A task of user code that exits stops the loop, which then goes on."""
    while True:
        try:
            return loop.run_until_complete(serving)
        except (SystemExit, KeyboardInterrupt):
            if serving.done():
                raise
            _logger.error("A background task of an agent tried to end the process.", exc_info=True)


class Server(uvicorn.Server):
    """Serves one app."""

    restart: Callable[[], None] | None
    kill: Callable[[], None]

    def __init__(
        self,
        app: Any,
        settings: Settings,
        on_start: Callable[[], None],
        *,
        shares_port: bool,
        heeds_ctrl_c: bool,
        successor: Restart | None,
    ) -> None:
        self._farewell = Farewell(app)
        super().__init__(uvicorn_config(self._farewell, settings))
        self._kernel = kernel_of(app)
        self._longest_end = longest_end(settings.drain_seconds)
        self._connections_seconds = settings.drain_seconds + _CONNECTIONS_SECONDS
        self._on_start = on_start
        self._shares_port = shares_port
        self._signals = (signal.SIGINT, signal.SIGTERM) if heeds_ctrl_c else (signal.SIGTERM,)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        self._rounds: asyncio.Task[None] | None = None
        self._is_ending = False
        self._successor = successor
        self._depart: Depart = os._exit if successor is None else successor.depart
        if successor is not None:
            successor.on_ask = self._make_way

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.lifespan = _Lifespan(self.config, lambda: listen_on(sockets or ()))
        # The loop closes what it is given, and then we could not take what has come last.
        loops = [one.dup() for one in sockets or ()]
        await super().startup(loops)
        keep_from_forks([*loops, *(sockets or ())])
        on_signal_anywhere(self._end_for_good)
        rounds = Rounds(bounds_in(self.config), lambda: self.server_state.connections)
        self._rounds = asyncio.create_task(rounds.run())
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not self.force_exit:
            deadline = asyncio.get_running_loop().time() + self._connections_seconds
            self._take_leave()
            await self._give_up_port(sockets or [])
            await self._hear_last_requests()
            await self._drain()
            left = deadline - asyncio.get_running_loop().time()
            self.config.timeout_graceful_shutdown = max(1, round(left))
        await super().shutdown(sockets)
        if self._rounds is not None:
            self._rounds.cancel()
        if not self.force_exit:
            await _end_leftovers()

    def _take_leave(self) -> None:
        """From now on `/ready` says so, and whoever is answered is asked to connect anew."""
        if self._farewell.is_leaving:
            return
        self._farewell.is_leaving = True
        close_after_answer(list(self.server_state.connections), self.config.http_protocol_class)
        if self._kernel is not None:
            self._kernel.leave()

    async def _give_up_port(self, listeners: list[socket.socket]) -> None:
        """Let nobody in any more, but everybody whom the system has let in already."""
        if not self._shares_port:
            for listener in listeners:
                turn_away(listener)
        await asyncio.sleep(_LAST_ARRIVALS_SECONDS)
        for server in self.servers:
            server.close()
        arrived = [connection for listener in listeners for connection in waiting(listener)]
        for listener in listeners:
            listener.close()
        for connection in arrived:
            try:
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
            except OSError:  # it has left already
                connection.close()
        await asyncio.sleep(0)  # what the loop has accepted last becomes a connection in its next turn

    def _protocol(self) -> asyncio.Protocol:
        new: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return new(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def _hear_last_requests(self) -> None:
        """Serve what was sent before its client could know; then part from those who have sent nothing."""
        protocol, connections = self.config.http_protocol_class, self.server_state.connections
        await self._until(
            lambda: not any(isinstance(one, protocol) for one in connections), at_most=_LAST_REQUESTS_SECONDS
        )
        close_idle(list(connections), protocol)

    async def _drain(self) -> None:
        """Wait for the runs: uvicorn would close WebSockets before they hear the end."""
        if self._kernel is None:
            return
        self._draining = asyncio.create_task(self._kernel.drain())
        await self._until(self._draining.done)
        await asyncio.sleep(_LAST_FRAMES_SECONDS)

    async def _until(self, is_over: Callable[[], bool], *, at_most: float = math.inf) -> None:
        """Wait for it, unless somebody is in a hurry."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + at_most
        while not is_over() and not self.force_exit and loop.time() < deadline:  # noqa: ASYNC110 - signals set flags
            await asyncio.sleep(_LOOK_AROUND_SECONDS)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own, without its last step, which would end the process by the signal instead of with 0."""
        for number in self._signals:
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._end_for_good()
        if not self.should_exit:
            leave_by_alarm(self._longest_end, self._depart)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._take_leave)
        super().handle_exit(sig, frame)

    def _make_way(self) -> None:
        """Drain as ever, and leave the port to the successor."""
        if not self.should_exit and self._successor is not None:
            self._successor.is_asked = self._shares_port = True
            self._end_in_time()
            leave_by_alarm(self._longest_end, self._depart)
            self._take_leave()
            self.should_exit = True

    def _end_for_good(self) -> None:
        """Somebody wants it to end; a successor that was asked for before is not wanted any more."""
        if self._successor is not None:
            self._successor.give_up()
        self._end_in_time()

    def _end_in_time(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            leave_after(self._longest_end, depart=self._depart)


class _Lifespan(LifespanOn):
    """uvicorn's, but what keeps the app from starting is raised instead of logged. Else `on_started` is called."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._failure: BaseException | None = None

    async def startup(self) -> None:
        task = asyncio.create_task(self.main())
        self.receive_queue.put_nowait({"type": "lifespan.startup"})
        await self.startup_event.wait()
        if self.startup_failed:
            await task
            raise self._failure or RuntimeError("The app's lifespan did not start, and did not say why.")
        self._on_started()

    async def main(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self.config.loaded_app(scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the app is started
            # An app that raises without a word has no lifespan, which is its right.
            self.error_occurred = True
            self._failure = error
        finally:
            self.startup_event.set()
            self.shutdown_event.set()

    async def send(self, message: Any) -> None:
        if message["type"] == "lifespan.startup.failed":
            message = {**message, "message": ""}
        await super().send(message)


def uvicorn_config(app: Any, settings: Settings) -> uvicorn.Config:
    """How uvicorn is set up: it logs nothing of its own, trusts no proxy's header and names itself to nobody."""
    bounds = bounds_of(settings)
    config = uvicorn.Config(
        app,
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=BoundedProtocol,
        ws=FramesProtocol,
        ws_max_size=bounds.message_bytes,
        ws_per_message_deflate=False,
        timeout_keep_alive=math.ceil(bounds.idle_seconds),
        timeout_graceful_shutdown=round(settings.drain_seconds + _CONNECTIONS_SECONDS),
    )
    vars(config)["bounds"] = bounds
    return config


async def _end_leftovers() -> None:
    """Give tasks that nobody awaits a moment to clean up."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_LEFTOVER_SECONDS)
