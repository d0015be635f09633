"""The servers under measurement: processes on uvicorn with one worker, and what the kernel knows of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_uvicorn(target: str) -> list[str]:
    """Both sides are served like this; `{port}` is filled in at the start."""
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", target, "--port", "{port}", *options]


class Server:
    """A server that has been started and answers. `ready_after` is in seconds from its spawning."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self._log = folder / f"server-{self.port}.log"
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with self._log.open("wb") as output:
            began = time.monotonic()
            self._process = subprocess.Popen(
                [word.replace("{port}", str(self.port)) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**inherited, **environment},
                start_new_session=True,
            )
        try:
            self._await_ready(began + 60)
        except BaseException:
            self.stop()
            raise
        self.ready_after = time.monotonic() - began

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def cpu_seconds(self) -> float:
        """Processor time of all of its threads so far; 0 where there is no /proc."""
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(one.read_text().split()[0]) for one in threads) / 1e9

    def memory(self) -> float:
        """Resident megabytes (of 1,000,000 bytes); 0 where there is no /proc."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except FileNotFoundError:
            return 0.0
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) * 1024 / 1e6 if found else 0.0

    def _await_ready(self, deadline: float) -> None:
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"A server did not start: {self._process.args!r}\n{self.log}")
            time.sleep(0.005)

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"GET /live HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
                return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False
