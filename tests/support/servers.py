"""Real servers on real ports: as a process of its own, to be killed and restarted, or in a thread, for speed.

A `ServerProcess` leads a process group, so that `kill()` takes its children along, as a power failure would.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tests.support import wardens
from tests.support.services import free_port

SOURCES = Path(__file__).resolve().parents[2] / "src"
_FOREIGN = ("INNKEEPER_", "OPENAI_", "TEST_", "DATABASE_URL", "REDIS_", "LOGGING_DB_")


def innkeeper_command(target: str | Path, *options: str) -> list[str]:
    """`innkeeper serve`, as a user would type it; `{port}` is filled in at each start."""
    return [sys.executable, "-m", "innkeeper", "serve", str(target), "--port", "{port}", *options]


def uvicorn_command(target: str, *options: str) -> list[str]:
    """An ASGI app, `module:attribute`, on uvicorn alone."""
    return [sys.executable, "-m", "uvicorn", target, "--port", "{port}", *options]


def clean_environment(data_dir: Path, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would configure a server, and with a data folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    paths = [str(SOURCES), *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "INNKEEPER_DATA_DIR": str(data_dir),
        **(overrides or {}),
    }


class ServerProcess:
    """A server as a subprocess. It keeps its port and its data folder from one start to the next."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        readiness: str = "/live",
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.log_file = folder / f"server-{self.port}.log"
        self._command = [word.replace("{port}", str(self.port)) for word in command]
        self._environment = dict(environment)
        self._readiness = readiness
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> str:
        """What every process under this name has written to its standard output and error."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def launch(self) -> None:
        """Start the process and return at once; for a server that says by itself where it listens."""
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=self._environment,
                start_new_session=True,
            )
        wardens.entrust(self._process, ending=signal.SIGKILL)

    def start(self, *, timeout: float = 60) -> None:
        """Returns when the server answers. Raises: RuntimeError with its log, if it does not."""
        self.launch()
        deadline = time.monotonic() + timeout
        while not self._is_ready():
            if not self.is_alive or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"The server did not start: {' '.join(self._command)}\n{self.log}")
            time.sleep(0.02)

    def wait_for_log(self, pattern: str, *, timeout: float = 30) -> str:
        """The first group of `pattern`, once the log holds it. Raises: RuntimeError with the log, if it does not."""
        deadline = time.monotonic() + timeout
        while (found := re.search(pattern, self.log)) is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"The server did not log {pattern!r}:\n{self.log}")
            time.sleep(0.02)
        return found[1]

    def wait_for_refusal(self, *, timeout: float = 30) -> None:
        """Returns when the port takes no more connections. Raises: RuntimeError if it goes on doing so."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                return
            time.sleep(0.02)
        raise RuntimeError("The server goes on taking connections.")

    def kill(self) -> None:
        """SIGKILL to the whole process group."""
        self._signal_group(signal.SIGKILL)
        self._ended(timeout=30)

    def terminate(self, *, timeout: float = 30) -> int:
        """SIGTERM to the server; returns its exit code. What it leaves behind is killed."""
        process = self._running()
        process.terminate()
        try:
            return self._ended(timeout=timeout)
        finally:
            self._signal_group(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        self._running().send_signal(number)

    def wait(self, *, timeout: float = 30) -> int:
        """The exit code of a server that ends by itself."""
        return self._ended(timeout=timeout)

    def restart(self, *, timeout: float = 60) -> None:
        """Start again on the same port and data; kills it first where it still runs."""
        if self.is_alive:
            self.kill()
        self.start(timeout=timeout)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("The server has not been started.")
        return self._process

    def _ended(self, *, timeout: float) -> int:
        process = self._running()
        code = process.wait(timeout=timeout)
        wardens.dismiss(process)
        return code

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._running().pid, number)
        except (ProcessLookupError, PermissionError):
            # macOS answers PermissionError for a group of which only zombies are left.
            return

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", self._readiness)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


class ServerFactory:
    """The `innkeeper_server` fixture: call it to start a server; all are killed when the test ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._servers: list[ServerProcess] = []

    def __call__(
        self, target: str | Path, *options: str, env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> ServerProcess:
        """`innkeeper serve TARGET OPTIONS`, in the test's own folder, with a data folder below it."""
        return self.start(innkeeper_command(target, *options), env=env, timeout=timeout)

    def uvicorn(
        self, target: str, *options: str, env: Mapping[str, str] | None = None, readiness: str = "/live"
    ) -> ServerProcess:
        """An app (`module:attribute`, a module in the test's folder) on uvicorn alone."""
        return self.start(uvicorn_command(target, *options), env=env, readiness=readiness)

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        readiness: str = "/live",
        timeout: float = 60,
    ) -> ServerProcess:
        environment = clean_environment(self.folder / "data", env)
        server = ServerProcess(command, folder=self.folder, environment=environment, readiness=readiness)
        self._servers.append(server)
        server.start(timeout=timeout)
        return server

    def launch(self, target: str | Path, *options: str, env: Mapping[str, str] | None = None) -> ServerProcess:
        """`innkeeper serve TARGET OPTIONS`, without a port of the test's choice and without waiting for an answer."""
        command = [sys.executable, "-m", "innkeeper", "serve", str(target), *options]
        environment = clean_environment(self.folder / "data", env)
        server = ServerProcess(command, folder=self.folder, environment=environment)
        self._servers.append(server)
        server.launch()
        return server

    def write(self, name: str, source: str) -> Path:
        """A file in the test's folder, such as a module with agents."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    def close(self) -> None:
        for server in self._servers:
            if server.is_alive:
                server.kill()


class _ThreadServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.decided = threading.Event()
        self.failure: BaseException | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.decided.set()

    def run_in_thread(self, listener: socket.socket) -> None:
        try:
            self.run(sockets=[listener])
        except BaseException as failure:  # noqa: BLE001 -- handed to the thread that waits
            self.failure = failure
        finally:
            self.decided.set()


@contextmanager
def serve_app(app: Any, **options: Any) -> Iterator[str]:
    """Serve an ASGI app from a thread of this process; yields its base URL. `options` are uvicorn's."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    settings: dict[str, Any] = {"log_config": None, "access_log": False, "timeout_graceful_shutdown": 2}
    server = _ThreadServer(uvicorn.Config(app, **(settings | options)))
    thread = threading.Thread(target=server.run_in_thread, args=(listener,), daemon=True)
    thread.start()
    try:
        server.decided.wait(60)
        if not server.started:
            raise RuntimeError("The app did not start; its log says why.") from server.failure
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        if thread.is_alive():
            raise RuntimeError("The app did not shut down within 30 s.")
