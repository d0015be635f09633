"""Images: a Dockerfile played in a folder, for machines without Docker. Its steps are followed, on this machine.

What is not played: the base image, the user's name (its number is), and the limits of a container.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 10001


@dataclass
class Stage:
    """One stage of a Dockerfile: its instructions and what follows each."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]

    def one(self, instruction: str) -> str:
        (text,) = self.all(instruction)
        return text

    def command(self, instruction: str) -> list[str]:
        """The words of `CMD [...]`, or of what `HEALTHCHECK` runs."""
        words: list[str] = json.loads(self.one(instruction).rpartition("CMD ")[2])
        return words

    def environment(self) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S+)", self.one("ENV")))

    def copied(self) -> list[tuple[str, str]]:
        """What is copied from the repository, and where to."""
        lines = [text.split() for text in self.all("COPY") if not text.startswith("--from")]
        return [(source, words[-1]) for words in lines for source in words[:-1]]


def stages() -> list[Stage]:
    """Those of our Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            found.append(Stage(rest.split()[0]))
        elif instruction:
            found[-1].steps.append((instruction, " ".join(rest.split())))
    return found


class Image:
    """What the Dockerfile makes: its `/opt`, `/app` and `/data`, below `root`. Only the last is its user's to write."""

    def __init__(self, root: Path, python: str) -> None:
        self.root = root
        self._python = python
        self._build, self._image = stages()

    def make(self) -> None:
        for folder in ("build", "opt", "app/agents", "data"):
            (self.root / folder).mkdir(parents=True)
        for source, target in self._build.copied():
            _copy(ROOT / source, self.root / "build" / (source if target == "./" else target))
        self._run(self._build.one("RUN"))
        for source, target in self._image.copied():
            _copy(ROOT / source, self.place(target))
        shutil.rmtree(self.root / "build")
        if os.geteuid() == 0:
            os.chown(self.root / "data", NOBODY, NOBODY)

    def place(self, path: str) -> Path:
        return self.root / path.removeprefix("/")

    def _run(self, text: str) -> None:
        text = re.sub(r"(?<!\S)/opt/", f"{self.root}/opt/", text)
        text = re.sub(r"(?<!\S)pip ", f"{sys.executable} -m pip --quiet ", text)
        text = re.sub(r"(?<!\S)python ", f"{self._python} ", text)
        ended = subprocess.run(["sh", "-ec", text], cwd=self.root / "build", capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """What a process in the image has, and nothing of this one's."""
        told = self._image.environment()
        placed = {name: str(self.place(value)) if value.startswith("/data") else value for name, value in told.items()}
        return {**placed, "PATH": f"{self.root}/opt/innkeeper/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **more}

    def command(self, instruction: str) -> list[str]:
        """What the instruction runs, as the image's user where this process may say who that is."""
        return [*as_nobody(), *self._image.command(instruction)]


def as_nobody() -> list[str]:
    """The words before a command that take away every right from it."""
    if os.geteuid() != 0:
        return []
    # setpriv itself may still start what is root's alone; the shell may not.
    start = ["sh", "-c", 'exec "$0" "$@"']
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", *start]


def python_for_anybody() -> str | None:
    """An interpreter that a user without rights can start."""
    for name in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        told = [*as_nobody(), name, "-c", "import sys, venv; print(sys.version_info >= (3, 11))"]
        if subprocess.run(told, capture_output=True, text=True, cwd="/").stdout.strip() == "True":
            return name
    return None


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
