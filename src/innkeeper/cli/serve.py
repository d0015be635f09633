"""`innkeeper serve`: from targets and options to a server that answers.

The port is taken and the targets are found before anything heavy is imported, so that a mistake is told at once.
With `reload` this process only watches, and a child of it serves on the same socket; with several `workers` it only
sees to it that so many children serve.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

from innkeeper.apps.targets import Source, locate
from innkeeper.cli import failures, first_tokens, logs
from innkeeper.cli.endings import leave, leave_after, longest_end
from innkeeper.cli.listeners import listen_on, take
from innkeeper.cli.restarts import Keeper, Restart, tell, ways_of
from innkeeper.config import Settings, load_settings, use_command_line
from innkeeper.core.errors import InnkeeperError

if TYPE_CHECKING:
    from innkeeper.cli.screens import Screen
    from innkeeper.cli.supervisors import Post
    from innkeeper.telemetry.books import Shelf
    from innkeeper.wiring import Kernel

_logger = logging.getLogger("innkeeper")

_PRIVATE = 0o077
"""What nobody else may do with files that a server makes, or the agents in it."""

_RELOAD_DRAIN_SECONDS = 1.0
_WAITING = "Waiting for a file to change."
_PATIENCE_SECONDS = 0.6


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asked for; it crosses to the processes that serve for this one."""

    targets: tuple[str, ...]
    flags: Mapping[str, Any]
    config: Path | None = None
    env_file: Path | None = None
    reload: bool = False

    def settings(self) -> Settings:
        """The settings, which from now on hold for every app that this process makes.

        Raises: SetupError.
        """
        use_command_line(self.flags, config=self.config, env_file=self.env_file)
        return load_settings()


def serve(order: Order) -> NoReturn:
    """Serve until a signal ends it, then end the process: 0 if it was served.

    Raises: SetupError for what kept it from being served.
    """
    began, before = time.monotonic(), os.umask(_PRIVATE)
    try:
        _serve(order, began)
    finally:
        os.umask(before)  # what keeps it from being served is told, and whoever asked goes on


def _serve(order: Order, began: float) -> NoReturn:
    settings = order.settings()
    logs.configure(settings.log_level, settings.log_file)
    for doubt in settings.doubts:
        _logger.warning("%s", doubt)
    sources = _sources(order, settings)
    listener = take(settings.host, settings.port)
    _warn_of_workers(order, settings)
    first_tokens.ensure(settings, listener)
    if order.reload:
        _watch(order, settings, sources, listener)
    if settings.workers > 1 and not _is_sqlite(settings):
        _supervise(order, settings, listener, began)
    _serve_here(settings, sources, listener, _Crier(began))


def _sources(order: Order, settings: Settings) -> list[Source]:
    return locate(order.targets or settings.targets, Path.cwd())


def _is_sqlite(settings: Settings) -> bool:
    return settings.database_url is None or settings.database_url.get_secret_value().startswith("sqlite")


def _warn_of_workers(order: Order, settings: Settings) -> None:
    if settings.workers == 1:
        return
    if order.reload:
        reason = "--reload starts one anew when a file changes"
    elif _is_sqlite(settings):
        reason = "SQLite lets one process serve; PostgreSQL (DATABASE_URL=postgresql://…) is the way to several"
    else:
        return
    _logger.warning("workers is %d, but one process serves: %s.", settings.workers, reason)


class _Crier:
    """Says how the start of a process went, to whoever started it."""

    def __init__(self, began: float) -> None:
        self.began = began

    def started(self, screen: Screen, settings: Settings) -> None:
        from innkeeper.cli.screens import show

        show(screen)
        _warm_up(screen, settings)

    def failed(self, error: Exception, *, debug: bool) -> None:
        if isinstance(error, InnkeeperError):
            failures.tell(error, debug=debug)
        else:
            _logger.error("The app did not start.", exc_info=error)


def _serve_here(
    settings: Settings,
    sources: Sequence[Source],
    listener: socket.socket,
    crier: _Crier,
    *,
    keeper: Keeper | None = None,
    prepare: Callable[[Kernel], None] = lambda kernel: None,
) -> NoReturn:
    with _uncollected():
        from innkeeper.apps.loading import kernel_of, load_app
        from innkeeper.cli.servers import serve_app

    successor = Restart(listener) if keeper is None else None
    ways = ways_of(keeper, successor)
    try:
        with _uncollected():
            app = load_app(sources, Path.cwd())
        kernel = kernel_of(app)
        if kernel is not None:
            prepare(kernel)
            kernel.house.stop = partial(tell, keeper, signal.SIGTERM)
            kernel.house.restart, kernel.house.kill = ways.restart, ways.kill

        def on_start() -> None:
            crier.started(_screen(kernel_of(app), settings, listener, time.monotonic() - crier.began), settings)

        is_done = serve_app(
            app,
            settings,
            listener,
            on_start,
            shares_port=keeper is not None,
            heeds_ctrl_c=keeper is None or keeper.heeds_ctrl_c,
            ways=ways,
            successor=successor,
        )
        code = 0 if is_done else failures.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - an app may raise anything, and threads of its may keep the process
        crier.failed(error, debug=settings.debug)
        code = failures.FAILED
    leave(code, os._exit if successor is None else successor.depart)


@contextmanager
def _uncollected() -> Iterator[None]:
    """What is made here stays: nobody needs to look through it for rubbish, now or later."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _screen(kernel: Kernel | None, settings: Settings, listener: socket.socket, seconds: float) -> Screen:
    from innkeeper.cli.screens import Screen, ServedAs
    from innkeeper.wiring import store_label

    return Screen(
        host=settings.host,
        port=listener.getsockname()[1],
        agents=[] if kernel is None else [ServedAs(one.describe(), one.is_default) for one in kernel.agents],
        store=None if kernel is None else store_label(kernel.settings),
        modes=settings.allowed_modes,
        seconds=seconds,
        is_auth_enabled=settings.auth_enabled,
        is_auth_forced=settings.force_auth,
        dynamic_agents=kernel is not None and not kernel.agents.is_empty,
    )


def _warm_up(screen: Screen, settings: Settings) -> None:
    """Fetch and load local models while nobody waits for them yet."""
    models = [one.description.model or "" for one in screen.agents]
    local = dict.fromkeys(model for model in models if model.startswith("local:"))
    if local:
        from innkeeper.cli.warming import warm

        warm(list(local), settings)


# one process, and a new one after each change


def _watch(order: Order, settings: Settings, sources: Sequence[Source], listener: socket.socket) -> NoReturn:
    """Serve in a child, and in a new one whenever a file has changed."""
    from innkeeper.cli.reloading import watch

    # Whoever reloads a page while the server starts anew waits for it.
    listen_on([listener])
    folders = {Path.cwd(), *(source.path.parent for source in sources if source.path is not None)}
    watch(folders, partial(serve_as_child, order), listener)
    sys.exit(0)


class _ReloadingCrier(_Crier):
    def __init__(self, began: float, *, is_again: bool) -> None:
        super().__init__(began)
        self._is_again = is_again

    def started(self, screen: Screen, settings: Settings) -> None:
        if not self._is_again:
            super().started(screen, settings)
            return
        print(screen.headline, flush=True)
        _warm_up(screen, settings)

    def failed(self, error: Exception, *, debug: bool) -> None:
        super().failed(error, debug=debug)
        print(_WAITING, file=sys.stderr, flush=True)


def serve_as_child(order: Order, *, is_again: bool, sockets: list[socket.socket]) -> None:
    """In the child that serves under `reload`: read everything anew, except for the port."""
    crier = _ReloadingCrier(time.monotonic(), is_again=is_again)
    try:
        settings = order.settings()
        # Somebody who has just saved a file does not wait for a conversation to end.
        settings = settings.model_copy(update={"drain_seconds": min(settings.drain_seconds, _RELOAD_DRAIN_SECONDS)})
        logs.configure(settings.log_level, settings.log_file)
        sources = _sources(order, settings)
    except InnkeeperError as error:
        crier.failed(error, debug=bool(order.flags.get("debug")))
        sys.exit(failures.FAILED)
    _serve_here(settings, sources, sockets[0], crier, keeper=Keeper(to_kill=signal.SIGKILL))


# several processes


def _supervise(order: Order, settings: Settings, listener: socket.socket, began: float) -> NoReturn:
    """Have several children serve, and new ones in the place of those that end."""
    from innkeeper.cli.screens import show
    from innkeeper.cli.supervisors import Supervisor
    from innkeeper.telemetry.books import Shelf

    def on_ready(screen: Screen, serving: int) -> None:
        show(replace(screen, processes=settings.workers, serving=serving, seconds=time.monotonic() - began))

    seconds = longest_end(settings.drain_seconds)
    patience = seconds + _PATIENCE_SECONDS
    with TemporaryDirectory(prefix="innkeeper-", ignore_cleanup_errors=True) as folder:
        shelf = Shelf(Path(folder), settings.workers)
        work = partial(serve_as_worker, order, shelf, partial(leave_after, seconds))
        supervisor = Supervisor(
            work, listener, settings.workers, patience=patience, on_ready=on_ready, on_vacated=shelf.vacate
        )
        code = supervisor.run()
    sys.exit(code)


class _WorkersCrier(_Crier):
    def __init__(self, began: float, post: Post) -> None:
        super().__init__(began)
        self._post = post

    def started(self, screen: Screen, settings: Settings) -> None:
        self._post.report_ready(screen)
        if self._post.number == 1:
            _warm_up(screen, settings)

    def failed(self, error: Exception, *, debug: bool) -> None:
        if not self._post.is_first_start:
            super().failed(error, debug=debug)
        elif isinstance(error, InnkeeperError):
            self._post.report_failure(failures.text(error, debug=debug))
        else:
            trace = "".join(traceback.format_exception(error)).rstrip()
            self._post.report_failure(f"Error: The app did not start.\n{trace}")


def serve_as_worker(order: Order, shelf: Shelf, on_orphaned: Callable[[], None], post: Post) -> None:
    """In one of several processes that serve: read everything anew, except for the port."""
    from innkeeper.cli.supervisors import KILL, ROLL

    crier = _WorkersCrier(time.monotonic(), post)
    post.hold(on_orphaned)
    try:
        settings = order.settings()
        logs.configure(settings.log_level, settings.log_file)
        sources = _sources(order, settings)
    except InnkeeperError as error:
        crier.failed(error, debug=bool(order.flags.get("debug")))
        sys.exit(failures.FAILED)

    def count_together(kernel: Kernel) -> None:
        kernel.measure_on(shelf, post.number)

    keeper = Keeper(to_kill=KILL, to_restart=ROLL, heeds_ctrl_c=False)
    _serve_here(settings, sources, post.listener, crier, keeper=keeper, prepare=count_together)
