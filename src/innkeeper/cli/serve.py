"""`innkeeper serve`: from targets and options to a server that answers.

The port is taken and the targets are found before anything heavy is imported, so that a mistake is told at once.
With `reload` this process only watches, and a child of it serves on the same socket.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from innkeeper.apps.targets import Source, locate
from innkeeper.cli import failures, logs
from innkeeper.cli.listeners import listen
from innkeeper.config import Settings, load_settings, use_command_line
from innkeeper.core.errors import InnkeeperError

if TYPE_CHECKING:
    from innkeeper.wiring import Kernel

_logger = logging.getLogger("innkeeper")

_RELOAD_DRAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asked for; it crosses to the child that serves under `reload`."""

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
    began = time.monotonic()
    settings = order.settings()
    logs.configure(settings.log_level, settings.log_file)
    sources = _sources(order, settings)
    listener = listen(settings.host, settings.port)
    _warn_of_workers(settings)
    if order.reload:
        _watch(order, settings, sources, listener)
    _serve_here(settings, sources, listener, began)


def _sources(order: Order, settings: Settings) -> list[Source]:
    return locate(order.targets or settings.targets, Path.cwd())


def _warn_of_workers(settings: Settings) -> None:
    if settings.workers == 1:
        return
    url = settings.database_url.get_secret_value() if settings.database_url is not None else "sqlite:"
    reason = "SQLite lets one process serve; PostgreSQL (DATABASE_URL=postgresql://…) is the way to several"
    if not url.startswith("sqlite"):
        reason = "more than one process on PostgreSQL is not supported yet"
    _logger.warning("workers is %d, but one process serves: %s.", settings.workers, reason)


def _serve_here(
    settings: Settings, sources: Sequence[Source], listener: socket.socket, began: float, *, is_again: bool = False
) -> NoReturn:
    from innkeeper.apps.loading import kernel_of, load_app
    from innkeeper.cli.servers import leave, serve_app

    app = load_app(sources, Path.cwd())

    def on_start() -> None:
        _announce(kernel_of(app), settings, listener, time.monotonic() - began, is_again=is_again)

    try:
        code = 0 if serve_app(app, settings, listener, on_start) else failures.INTERRUPTED
    except InnkeeperError as error:
        code = failures.tell(error, debug=settings.debug)
    except Exception:
        _logger.exception("The app did not start.")
        code = failures.FAILED
    leave(code)


def _announce(
    kernel: Kernel | None, settings: Settings, listener: socket.socket, seconds: float, *, is_again: bool
) -> None:
    from innkeeper.cli.screens import Screen, ServedAs, show
    from innkeeper.wiring import store_label

    agents = [] if kernel is None else [ServedAs(one.describe(), one.is_default) for one in kernel.agents]
    screen = Screen(
        host=settings.host,
        port=listener.getsockname()[1],
        agents=agents,
        store=None if kernel is None else store_label(kernel.settings),
        modes=settings.allowed_modes,
        seconds=seconds,
        is_auth_enabled=settings.auth_enabled,
        is_auth_forced=settings.force_auth,
        dynamic_agents=kernel is not None and not kernel.agents.is_empty,
    )
    if is_again:
        print(screen.headline, flush=True)
    else:
        show(screen)
    _warm_up([one.description.model or "" for one in agents], settings)


def _warm_up(models: Sequence[str], settings: Settings) -> None:
    """Fetch and load local models while nobody waits for them yet."""
    local = dict.fromkeys(model for model in models if model.startswith("local:"))
    if local:
        from innkeeper.cli.warming import warm

        warm(list(local), settings)


def _watch(order: Order, settings: Settings, sources: Sequence[Source], listener: socket.socket) -> NoReturn:
    """Serve in a child, and in a new one whenever a file has changed."""
    from innkeeper.cli.reloading import watch

    folders = {Path.cwd(), *(source.path.parent for source in sources if source.path is not None)}
    watch(folders, partial(serve_as_child, order), listener)
    sys.exit(0)


def serve_as_child(order: Order, *, is_again: bool, sockets: list[socket.socket]) -> None:
    """In the child that serves under `reload`: read everything anew, except for the port."""
    began = time.monotonic()
    debug = bool(order.flags.get("debug"))
    try:
        settings = order.settings()
        # Somebody who has just saved a file does not wait for a conversation to end.
        settings = settings.model_copy(update={"drain_seconds": min(settings.drain_seconds, _RELOAD_DRAIN_SECONDS)})
        debug = settings.debug
        logs.configure(settings.log_level, settings.log_file)
        _serve_here(settings, _sources(order, settings), sockets[0], began, is_again=is_again)
    except InnkeeperError as error:
        failures.tell(error, debug=debug)
        print("Waiting for a file to change.", file=sys.stderr, flush=True)
        sys.exit(failures.FAILED)
