"""Servers: uvicorn, told how we want to be served, and how to end.

On SIGTERM or SIGINT runs are drained while their clients still listen, then connections end, then the app's lifespan.
Invariant: the process is gone `drain_seconds` and 9 s after the first signal, whatever user code does: Python would
wait for the threads of synchronous agents, so it is not asked.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from uvicorn.lifespan.on import LifespanOn

from innkeeper.apps.loading import kernel_of
from innkeeper.config import Settings

_logger = logging.getLogger("innkeeper")

_CONNECTIONS_SECONDS = 7.0
_LAST_SECONDS = 9.0
_LEFTOVER_SECONDS = 1.0
_LOOK_AROUND_SECONDS = 0.1
_LAST_FRAMES_SECONDS = 0.1
_GOODBYE_SECONDS = 3.0
_WS_MAX_SIZE = 1024 * 1024
_KEEP_ALIVE_SECONDS = 15
_HEADERS_SIZE = 24 * 1024


def serve_app(app: Any, settings: Settings, listener: socket.socket, on_start: Callable[[], None]) -> bool:
    """Serve `app` on `listener` until a signal ends it; `on_start` is called once it answers.

    Returns whether it ended in good order; a second Ctrl-C cuts that short.

    Raises: whatever kept the app from starting.
    """
    server = Server(app, settings, on_start)
    loop = (server.config.get_loop_factory() or asyncio.new_event_loop)()
    loop.run_until_complete(server.serve([listener]))
    return not server.force_exit


class Server(uvicorn.Server):
    """Serves one app."""

    def __init__(self, app: Any, settings: Settings, on_start: Callable[[], None]) -> None:
        super().__init__(uvicorn_config(app, settings))
        self._kernel = kernel_of(app)
        self._drain_seconds = settings.drain_seconds
        self._on_start = on_start
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.lifespan = _Lifespan(self.config)
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._kernel is not None and not self.force_exit:
            self._draining = asyncio.create_task(self._kernel.drain())
            await self._drained(self._draining, sockets or [])
        await super().shutdown(sockets)
        if not self.force_exit:
            await _end_leftovers()

    async def _drained(self, draining: asyncio.Task[None], sockets: list[socket.socket]) -> None:
        """Take no new connections and wait for the runs: uvicorn would close WebSockets before they hear the end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._drain_seconds + _CONNECTIONS_SECONDS
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=_LOOK_AROUND_SECONDS)
        await asyncio.sleep(_LAST_FRAMES_SECONDS)
        self.config.timeout_graceful_shutdown = max(1, round(deadline - loop.time()))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own, without its last step, which would end the process by the signal instead of with 0."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            leave_after(self._drain_seconds + _LAST_SECONDS)
        super().handle_exit(sig, frame)


class _Lifespan(LifespanOn):
    """uvicorn's, but what keeps the app from starting is raised instead of logged."""

    _failure: BaseException | None = None

    async def startup(self) -> None:
        task = asyncio.create_task(self.main())
        self.receive_queue.put_nowait({"type": "lifespan.startup"})
        await self.startup_event.wait()
        if self.startup_failed:
            await task
            raise self._failure or RuntimeError("The app's lifespan did not start, and did not say why.")

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
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=_WS_MAX_SIZE,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(settings.drain_seconds + _CONNECTIONS_SECONDS),
        h11_max_incomplete_event_size=_HEADERS_SIZE,
    )


async def _end_leftovers() -> None:
    """Give tasks that nobody awaits a moment to clean up."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_LEFTOVER_SECONDS)


def leave_after(seconds: float) -> None:
    """End the process then, if it has not ended by itself."""

    def leave_now() -> None:
        _logger.error("The server did not end within %.0f s and is ended now.", seconds)
        os._exit(1)

    timer = threading.Timer(seconds, leave_now)
    timer.daemon = True
    timer.start()


def leave(code: int) -> NoReturn:
    """End the process without waiting for threads, but with everything else that Python does at its end."""
    leave_after(_GOODBYE_SECONDS)
    local = sys.modules.get("innkeeper.runtimes.local")
    if local is not None:
        local.shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
