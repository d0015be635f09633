"""Local models: `local:smollm2` and `local:PATH.gguf`, each served by one child process on a loopback port.

A child is started by the first question (or by `prepare`), shared by every event loop of this process, and
started again by the next question if it died. `runtimes.local_server` is the child, `runtimes.weights` fetches
the files. What speaks to the endpoint stands elsewhere: any client of OpenAI's chat completions will do.
Invariant: a child never outlives this process, and only this process has the key that it asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from innkeeper.core.errors import MissingDependency, SetupError, ShuttingDown
from innkeeper.runtimes import weights
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.weights import Phase, Progress

PREFIX = "local:"
CONTEXT_TOKENS = 8192
"""How long one conversation may be."""

SLOTS = 2
"""Conversations answered at once; others wait. Each takes its memory at start, and more would not be faster."""

_LOAD_SECONDS = 300.0
_GOODBYE_SECONDS = 2.0
_log = logging.getLogger("innkeeper.local")


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """Where a local model answers: `base_url` ends in `/v1`, `api_key` is sent as the bearer, `headers` as they are."""

    base_url: str
    model: str
    api_key: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        # After a stream the child sometimes closes a connection that it promised to keep: a request in a dozen
        # was lost on it. A new connection to loopback costs nothing.
        return {"Connection": "close"}


def validate(spec: str, settings: RuntimeSettings) -> None:
    """Whether the model could be served, without reading or fetching it.

    Raises: MissingDependency, or SetupError that names what was looked for.
    """
    name = spec.removeprefix(PREFIX)
    if name not in weights.CATALOGUE:
        _check_file(name)
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingDependency(
            f"The model {PREFIX}{name} runs on the package xllamacpp: pip install 'innkeeper[local]'.",
            param="model",
        )


async def endpoint(spec: str, settings: RuntimeSettings) -> LocalEndpoint:
    """Where `spec` (with or without `local:`) answers now. Ask again for each run: a new child has a new port.

    The first call fetches weights that are missing and loads them, which takes as long as it takes.
    Raises: SetupError, MissingDependency, ShuttingDown.
    """
    return await asyncio.wrap_future(prepare(spec, settings))


def prepare(spec: str, settings: RuntimeSettings, progress: Progress | None = None) -> Future[LocalEndpoint]:
    """Begin to fetch and load the model in the background, unless it is there or on its way; returns at once.

    `progress` is called from another thread; without it, progress is logged.
    Raises: SetupError, MissingDependency, as `validate` does; what goes wrong later is in the future.
    """
    return _children.start(spec.removeprefix(PREFIX), settings, progress)


def shutdown() -> None:
    """Stop every child and every fetch; a later question starts anew. Takes milliseconds, at most seconds."""
    _children.stop()


def cache_dir(settings: RuntimeSettings) -> Path:
    """Where this configuration keeps weights."""
    return settings.cache_dir or weights.default_cache_dir(settings.environment)


def _check_file(name: str) -> None:
    path = Path(name).expanduser()
    if not path.is_file():
        known = ", ".join(f"{PREFIX}{model}" for model in weights.CATALOGUE)
        raise SetupError(
            f"There is no local model {name!r}: no file is at {path.absolute()}."
            f" Give the path of a .gguf file, or one of: {known}.",
            param="model",
        )
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise SetupError(f"{path.absolute()} is not a GGUF file of model weights.", param="model")


class _Child:
    """One model's process, from the fetch of its weights to its end.

    The thread that starts the process stays with it: Linux reports the death of a parent per thread.
    """

    def __init__(self, name: str, settings: RuntimeSettings, key: str, progress: Progress | None) -> None:
        self.ready: Future[LocalEndpoint] = Future()
        self.ready.set_running_or_notify_cancel()  # from now on, nobody who waits can cancel it for others
        self._name = name
        self._cache_dir = cache_dir(settings)
        self._key = key
        self._progress = progress or _LoggedProgress(self._alias)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._errors: deque[str] = deque(maxlen=3)
        self._thread = threading.Thread(target=self._live, name=f"local:{name}", daemon=True)
        self._thread.start()

    @property
    def is_usable(self) -> bool:
        """Whether it answers, or is about to."""
        if self._stopping.is_set():
            return False
        if not self.ready.done():
            return True
        if self.ready.exception() is not None or self._ended.is_set():
            return False
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it, whatever it is doing: it holds nothing that would be lost."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join(_GOODBYE_SECONDS)

    def _live(self) -> None:
        try:
            path = self._weights()
            self._report(0, path.stat().st_size, "loading")
            self._run(path)
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
            if not self.ready.done():
                _log.warning("%s%s cannot be used: %s", PREFIX, self._alias, error)
                self.ready.set_exception(error)

    def _run(self, path: Path) -> None:
        with self._spawn(path) as process:
            self._process = process
            listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
            listener.start()
            try:
                if self._stopping.is_set():  # `stop` came before it could see the process
                    raise self._not_loaded(None)
                address = self._load(process)
                if address is None:
                    listener.join()
                    raise self._not_loaded(process.wait())
                self.ready.set_result(LocalEndpoint(f"{address}/v1", self._alias, self._key))
                self._await_end(process, listener)
            finally:
                process.kill()
                listener.join()

    def _weights(self) -> Path:
        entry = weights.CATALOGUE.get(self._name)
        if entry is None:
            return Path(self._name).expanduser().absolute()
        return weights.pull(entry.name, self._cache_dir, self._report)

    def _report(self, done: int, total: int | None, phase: Phase) -> None:
        if self._stopping.is_set():
            raise ShuttingDown("The server is stopping.")
        self._progress(done, total, phase)

    def _spawn(self, path: Path) -> subprocess.Popen[bytes]:
        # By path, and with -P: nothing in the working folder or beside the program can stand in for a module.
        program = [sys.executable, "-P", str(Path(__file__).with_name("local_server.py"))]
        options = {"model": path, "context": CONTEXT_TOKENS, "slots": SLOTS}
        return subprocess.Popen(  # noqa: S603 - our own program
            program + [word for name, value in options.items() for word in (f"--{name}", str(value))],
            bufsize=0,  # a child that dies before it reads must not break the closing of its pipe, too
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _load(self, process: subprocess.Popen[bytes]) -> str | None:
        """The address of the child once the model is loaded, or `None` if it ended before."""
        assert process.stdin is not None and process.stdout is not None
        began = time.monotonic()
        timer = threading.Timer(_LOAD_SECONDS, process.kill)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(self._instructions())
                process.stdin.flush()
            answer = process.stdout.readline()
        finally:
            timer.cancel()
        if not answer:
            return None
        _log.info("%s%s is ready after %.1f s.", PREFIX, self._alias, time.monotonic() - began)
        return str(json.loads(answer)["address"])

    def _await_end(self, process: subprocess.Popen[bytes], listener: threading.Thread) -> None:
        assert process.stdout is not None
        process.stdout.read()  # ends with the process
        self._ended.set()  # before `wait`, while which `poll` in another thread says that the process lives
        if not self._stopping.is_set():
            message = "The process of %s%s ended (%s; %s); the next question starts it again."
            code = process.wait()
            listener.join()
            _log.warning(message, PREFIX, self._alias, code, self._last_words)

    @property
    def _alias(self) -> str:
        return self._name if self._name in weights.CATALOGUE else Path(self._name).stem

    def _instructions(self) -> bytes:
        entry = weights.CATALOGUE.get(self._name)
        instructions = {
            "api_key": self._key,
            "alias": self._alias,
            "parameters": dict(entry.parameters) if entry else {},
            "sampling": dict(entry.sampling) if entry else {},
        }
        return json.dumps(instructions).encode() + b"\n"

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for raw in process.stderr:
            line = raw.decode(errors="replace").rstrip()
            self._errors.append(line)
            _log.debug("%s%s: %s", PREFIX, self._alias, line)

    def _not_loaded(self, code: int | None) -> SetupError | ShuttingDown:
        if self._stopping.is_set():
            return ShuttingDown("The server is stopping.")
        return SetupError(
            f"The model {PREFIX}{self._name} could not be loaded: its process ended with {code} ({self._last_words}).",
            param="model",
        )

    @property
    def _last_words(self) -> str:
        return " / ".join(self._errors) or "it said nothing"


class _LoggedProgress:
    """One log line for each phase: nobody watches a bar in a log."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._phase: Phase | None = None

    def __call__(self, done: int, total: int | None, phase: Phase) -> None:
        if phase != self._phase:
            self._phase = phase
            _log.info("%s", weights.describe(self._name, total, phase))


class _Children:
    """The children of this process, by model and folder of weights."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: dict[tuple[str, Path], _Child] = {}
        # One key for all, so that a client made for an address stays right when a child comes back on it.
        self._key = secrets.token_urlsafe(32)

    def start(self, name: str, settings: RuntimeSettings, progress: Progress | None) -> Future[LocalEndpoint]:
        known = name if name in weights.CATALOGUE else str(Path(name).expanduser().resolve())
        with self._lock:
            child = self._children.get((known, cache_dir(settings)))
            if child is None or not child.is_usable:
                validate(name, settings)
                child = _Child(known, settings, self._key, progress)
                self._children[known, cache_dir(settings)] = child
            return child.ready

    def stop(self) -> None:
        with self._lock:
            children = list(self._children.values())
            self._children.clear()
        for child in children:
            child.stop()


# A child belongs to the process, as event loops and applications come and go in it: so does this register.
_children = _Children()
