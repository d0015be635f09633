"""Documents: the fenced examples of a Markdown file, played in order as their reader would play them.

The word behind a fence's language says what becomes of it:
- `file=NAME`: it is written into the document's folder.
- `run`: it is a program of its own; a `text output` fence after it is what it prints.
- `console`: lines after `$ ` are commands, what follows each is its output. `console server` stays up until the
  next such fence, or the end. `console by-hand` needs a network, a clone or a person, and is only read.
- `like`, behind `run` or `console`: a model speaks, so that only the kinds of lines are compared.

In what is expected, `…` is anything in a line, and a line of its own any lines. Port 8000 is the document's own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.support import wardens
from tests.support.servers import clean_environment
from tests.support.services import free_port

_FENCE = re.compile(r"^```(\w+)([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXAMPLES = frozenset({"python", "console", "sh", "bash", "shell", "yaml"})
_PORT = "8000"
# A reader's pytest has none of the plugins that our own tests need; to load them takes longer than an example.
_PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}


@dataclass(frozen=True, slots=True)
class Fence:
    """One fenced block. `words` are those behind its language, `line` is where it begins in the document."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int

    @property
    def file(self) -> str | None:
        return next((word.partition("=")[2] for word in self.words if word.startswith("file=")), None)

    @property
    def is_like(self) -> bool:
        return "like" in self.words

    @property
    def is_for_somebody(self) -> bool:
        """Whether it says what becomes of it, as every example must."""
        if self.language not in _EXAMPLES:
            return True
        if self.language == "console":
            return set(self.words) <= {"server", "by-hand", "like"}
        return self.file is not None or (self.language == "python" and "run" in self.words)


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console and the output that the document shows for it."""

    line: str
    output: str


def fences(document: Path) -> list[Fence]:
    """The fenced blocks of a document, in order."""
    text = document.read_text(encoding="utf-8")
    return [
        Fence(found[1], tuple(found[2].split()), found[3], text[: found.start()].count("\n") + 1)
        for found in _FENCE.finditer(text)
    ]


def commands(fence: Fence) -> list[Command]:
    """What a console fence types and sees; a command goes on behind a backslash at its line's end."""
    found: list[Command] = []
    typed, seen = "", ""
    goes_on = False
    for line in fence.text.splitlines(keepends=True):
        if goes_on or line.startswith("$ "):
            if not goes_on:
                if typed:
                    found.append(Command(typed, seen))
                typed, seen = "", ""
            typed += line if goes_on else line[2:]
            goes_on = line.rstrip("\n").endswith("\\")
        else:
            seen += line
    return [*found, Command(typed, seen)]


class Player:
    """Plays documents' examples in a folder, with a server on one port."""

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.port = str(free_port())
        self.folder = folder
        self._environment = _environment(folder, self.port) | dict(variables or {})
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / ".log"

    def play(self, document: Path) -> None:
        """Raises: AssertionError, naming the line of the first example that does not do what it shows."""
        blocks = fences(document)
        for fence, after in zip(blocks, [*blocks[1:], None], strict=False):
            try:
                self._play(fence, after)
            except AssertionError as error:
                raise AssertionError(f"{document.name}, line {fence.line}: {error}") from None

    def _play(self, fence: Fence, after: Fence | None) -> None:
        if fence.file is not None:
            path = self.folder / fence.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._here(fence.text), encoding="utf-8")
        elif fence.language == "python" and "run" in fence.words:
            shown = after.text if after is not None and after.language == "text" and "output" in after.words else ""
            program = self.folder / f"_line_{fence.line}.py"
            program.write_text(self._here(fence.text), encoding="utf-8")
            self._check([sys.executable, program.name], shown, fence.is_like)
        elif fence.language == "console" and "by-hand" not in fence.words:
            for command in commands(fence):
                if "server" in fence.words:
                    self._serve(command)
                else:
                    self._check(["bash", "-c", self._here(command.line)], command.output, fence.is_like)

    def _check(self, words: Sequence[str], shown: str, is_like: bool) -> None:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=90,
            check=False,
        )
        said = self._there(done.stdout.decode(errors="replace"))
        if is_like:
            assert done.returncode == 0, f"{words[-1]} ended with {done.returncode}:\n{said}"
            assert kinds(said) == kinds(shown), f"{words[-1]} said\n{said}\nwhich is not like\n{shown}"
        else:
            assert _pattern(shown).fullmatch(said), f"{words[-1]} said\n{said}\ninstead of\n{shown}"

    def _serve(self, command: Command) -> None:
        self.stop()
        with self._log.open("wb") as output:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec {self._here(command.line)}"],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wardens.entrust(self._server, ending=signal.SIGKILL)
        _await(f"http://127.0.0.1:{self.port}/live", self._server, lambda: self.log)
        pattern = re.compile(_pattern(command.output).pattern + r"(?s:.*)")
        deadline = time.monotonic() + 30
        while not pattern.fullmatch(self.log):
            assert time.monotonic() < deadline, f"{command.line} said\n{self.log}\ninstead of\n{command.output}"
            time.sleep(0.05)

    @property
    def log(self) -> str:
        """What the server has said."""
        return self._there(self._log.read_text(errors="replace")) if self._log.exists() else ""

    def stop(self) -> None:
        """End the server as its reader would, with Ctrl-C."""
        if self._server is None:
            return
        server, self._server = self._server, None
        os.killpg(server.pid, signal.SIGINT)
        server.wait(30)
        wardens.dismiss(server)

    def _here(self, text: str) -> str:
        return text.replace(_PORT, self.port)

    def _there(self, text: str) -> str:
        told = text.replace(f" --url http://127.0.0.1:{self.port}", "")  # said only where the port is not 8000
        return told.replace(self.port, _PORT).replace(str(self.folder), "…").replace("\r", "").rstrip() + "\n"


@contextmanager
def playing(folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[Player]:
    """A player whose server has ended when the block has."""
    player = Player(folder, variables)
    try:
        yield player
    finally:
        player.stop()


def _environment(folder: Path, port: str) -> dict[str, str]:
    """As in a terminal where Innkeeper is installed: `innkeeper` and `python` are this interpreter's."""
    programs = folder / ".bin"
    programs.mkdir()
    for name, rest in (("innkeeper", "-m innkeeper "), ("python", ""), ("uvicorn", "-m uvicorn ")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {rest}"$@"\n')
        program.chmod(0o755)
    environment = clean_environment(folder / "data", {"API_PORT": port, "INNKEEPER_URL": f"http://127.0.0.1:{port}"})
    path = f"{programs}{os.pathsep}{environment['PATH']}"
    environment.pop("CI", None)  # of which pytest takes it that longer lines are wanted
    return {**environment, **_PLUGINS, "PATH": path, "COLUMNS": "100"}


def _await(url: str, process: subprocess.Popen[bytes], log: Callable[[], str]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None and time.monotonic() < deadline, f"The server did not start:\n{log()}"
        try:
            with urlopen(url, timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.05)


def _pattern(shown: str) -> re.Pattern[str]:
    lines = []
    for line in shown.strip("\n").split("\n"):
        if line.strip() == "…":
            lines.append(r"(?:.*\n)*?")
        else:
            lines.append(re.escape(line.rstrip()).replace("…", ".*?") + r"[ \t]*\n")
    return re.compile("".join(lines) if shown.strip() else r"\s*")


def kinds(text: str) -> list[str]:
    """What kind of line follows what: the names in a JSON object, and nothing of its values or of its number."""
    lines = [line.strip() for line in text.splitlines()]
    found = [_kind(line) for line in lines if line and line != "…" and not line.startswith("id: ")]
    return [kind for kind, _ in groupby(found)]


def _kind(line: str) -> str:
    try:
        value = json.loads(line.removeprefix("data: "))
    except ValueError:
        return line if line.startswith("data: ") else "text"
    if isinstance(value, dict):
        return f"{value.get('type', 'object')}: {', '.join(sorted(value))}"
    return "text"
