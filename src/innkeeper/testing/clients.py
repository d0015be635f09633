"""Clients for tests: Starlette's `TestClient` over an app whose state lives and dies with the client.

The app keeps one event loop, in a thread, for as long as its client lasts, so that sessions and runs last from
one request to the next. It is started by the first request and stopped by `close()`, by leaving a `with` block,
or when nobody refers to the client any more.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from starlette.testclient import TestClient

from innkeeper.core.errors import SetupError
from innkeeper.wiring import Kernel


def create_test_client(app: FastAPI, *, data_dir: str | Path | None = None, **options: Any) -> TestClient:
    """A client for `app`, which keeps its state in a temporary folder, or in `data_dir`, whatever its settings say.

    `app` is what `create_app()` returned, a `Server` or `ServerBase`, or an app with `attach()`. Use the client as
    it is or in a `with` block. `options` go to Starlette's `TestClient`. A second client of an app takes the place
    of the first.

    Raises: SetupError if Innkeeper is not in the app.
    """
    return _Client(app, kernel_in(app), None if data_dir is None else Path(data_dir), options)


def kernel_in(app: FastAPI) -> Kernel:
    """Raises: SetupError."""
    kernel = getattr(app.state, "innkeeper_kernel", None)
    if not isinstance(kernel, Kernel):
        raise SetupError("Innkeeper is not in this app. Call innkeeper.attach(app), or use create_app() or Server().")
    return kernel


def end_stay(app: FastAPI) -> None:
    """Stop what an earlier client of the app keeps under way."""
    before = getattr(app.state, "innkeeper_stay", None)
    if before is not None:
        before.end()


class _Client(TestClient):
    """Starts its stay in the app when it is first used."""

    def __init__(self, app: FastAPI, kernel: Kernel, data_dir: Path | None, options: dict[str, Any]) -> None:
        super().__init__(app, **options)
        self._fastapi = app
        self._kernel = kernel
        self._data_dir = data_dir
        self._stay: _Stay | None = None

    def _begin(self) -> None:
        if self._stay is not None:
            if not self._stay.is_over:
                return
            raise RuntimeError("This client was closed, or another client of the same app has taken its place.")
        end_stay(self._fastapi)
        self._stay = _Stay(self._fastapi, self._kernel, self._data_dir, self.async_backend)
        self._fastapi.state.innkeeper_stay = self._stay
        self.portal = self._stay.portal
        self.app_state.update(self._stay.state)
        weakref.finalize(self, self._stay.end_elsewhere).atexit = False

    def send(self, *arguments: Any, **named: Any) -> Any:
        self._begin()
        return super().send(*arguments, **named)

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the app and remove its temporary folder; idempotent."""
        super().close()
        if self._stay is not None:
            self._stay.end()
        self.portal = None


class _Stay:
    """One app under way on one event loop. It does not know its client, so that the client can be collected."""

    def __init__(self, app: FastAPI, kernel: Kernel, data_dir: Path | None, backend: Any) -> None:
        self.is_over = False
        self._ending = threading.Lock()
        with ExitStack() as stack:
            if data_dir is None:
                data_dir = Path(tempfile.mkdtemp(prefix="innkeeper-test-"))
                stack.callback(_remove, data_dir)
                atexit.register(_remove, data_dir)  # a process that ends stops no event loops
            kernel.keep_in(data_dir)
            self.portal: BlockingPortal = stack.enter_context(start_blocking_portal(**backend))
            lifespan = app.router.lifespan_context(app)
            state = stack.enter_context(self.portal.wrap_async_context_manager(lifespan))
            self.state: dict[str, Any] = dict(state or {})
            self._stack = stack.pop_all()

    def end(self) -> None:
        """Stop; idempotent."""
        with self._ending:
            if not self.is_over:
                self.is_over = True
                self._stack.close()

    def end_elsewhere(self) -> None:
        """Stop from a thread that nothing waits for: the garbage collector asks for it, in any thread."""
        threading.Thread(target=self._end_unless_all_ends, name="innkeeper-test-end", daemon=True).start()

    def _end_unless_all_ends(self) -> None:
        with suppress(RuntimeError):  # where the interpreter shuts down, nothing can be stopped in order any more
            self.end()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
