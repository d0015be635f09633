"""Reloading: a parent that holds the socket and watches files, and a child that serves."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.supervisors import ChangeReload

_logger = logging.getLogger("innkeeper")

_WATCHED = ["*.py", "*.yaml", "*.yml", ".env"]


def watch(folders: Iterable[Path], serve: Callable[..., None], listener: socket.socket) -> None:
    """Run `serve(is_again=…, sockets=[listener])` in a child until a signal comes, anew after each change."""
    config = uvicorn.Config(
        "innkeeper.main:app",
        log_config=None,
        reload=True,
        reload_dirs=[str(folder) for folder in folders],
        reload_includes=_WATCHED,
    )
    _Reloader(config, serve, listener).run()


class _Reloader(ChangeReload):  # type: ignore[misc, valid-type]  # which class it is, uvicorn decides when imported
    def __init__(self, config: uvicorn.Config, serve: Callable[..., None], listener: socket.socket) -> None:
        super().__init__(config, partial(serve, is_again=False), [listener])
        self._serve = serve

    def restart(self) -> None:
        self.target = partial(self._serve, is_again=True)
        super().restart()
