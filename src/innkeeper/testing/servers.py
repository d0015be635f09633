"""Servers for tests: an app on a real port of this machine, served from a thread, for what needs a network.

`innkeeper.testing.clients` is quicker, and enough wherever a client can be handed an app. Both keep what is stored in a
folder that goes with them.
"""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI

from innkeeper.testing.clients import end_stay, kernel_in

_START_SECONDS = 30.0
_STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Served:
    """An app under way: where it answers, and a client that asks it. For OpenAI's clients, `url` + `/v1`."""

    app: FastAPI
    url: str
    client: httpx2.Client


@contextmanager
def served(app: FastAPI, *, data_dir: str | Path | None = None, **options: Any) -> Iterator[Served]:
    """Serve `app` on a free port of 127.0.0.1 until the block ends.

    `app` is what `create_app()` returned, a `Server` or `ServerBase`, or an app with `attach()`; its state is kept in a
    temporary folder, or in `data_dir`, whatever its settings say. `options` go to uvicorn.

    Raises: SetupError if Innkeeper is not in the app; whatever keeps the app from starting.
    """
    kernel = kernel_in(app)
    with ExitStack() as stack:
        if data_dir is None:
            data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="innkeeper-test-")))
        end_stay(app)
        kernel.keep_in(Path(data_dir))
        url = stack.enter_context(_listening(app, options))
        client = stack.enter_context(httpx2.Client(base_url=url, timeout=_START_SECONDS, trust_env=False))
        yield Served(app, url, client)


@contextmanager
def _listening(app: FastAPI, options: dict[str, Any]) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    settings: dict[str, Any] = {"log_config": None, "access_log": False, "timeout_graceful_shutdown": 2}
    server = _Server(uvicorn.Config(app, **(settings | options)))
    thread = threading.Thread(target=server.serve_on, args=(listener,), name="innkeeper-test-server", daemon=True)
    thread.start()
    try:
        server.decided.wait(_START_SECONDS)
        if not server.started:
            raise RuntimeError("The app did not start; its log says why.") from server.failure
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_STOP_SECONDS)
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn's, which tells another thread whether it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.decided = threading.Event()
        self.failure: BaseException | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.decided.set()

    def serve_on(self, listener: socket.socket) -> None:
        try:
            self.run(sockets=[listener])
        except BaseException as failure:  # noqa: BLE001 - it is handed to the thread that waits
            self.failure = failure
        finally:
            self.decided.set()
