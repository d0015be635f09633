"""Screenshots: terminal sessions that were really held, as SVGs in docs/images/, the same each time.

Commands run at a terminal of their own, against a server whose model is scripted. What differs from one run to the
next (ports, folders, times, tokens) is put in the words of the documentation; the rest is as it appeared, in colour.
"""

from __future__ import annotations

import io
import os
import pty
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
WIDTH = 104
AGENTS = '''
from innkeeper import Agent, register_agent
from innkeeper.testing import Call, ScriptedModel


def menu(day: str) -> list[str]:
    """What there is to eat."""
    return ["onion soup", "trout"]


said = ["Good evening! What can I do for you?", [Call("menu", {"day": "Friday"})], "Onion soup, and trout."]
register_agent("host", Agent("host", model=ScriptedModel(said), tools=[menu]))
register_agent("echo", lambda messages: messages[-1]["content"])
'''
_CONTROLS = re.compile(r"\x1b\[\?[0-9;]*[a-zA-Z]|\x1b\[[0-9;]*[A-LN-Zac-ln-z]|\r")
_FONTS = re.compile(r" *@font-face \{.*?\}\n", re.DOTALL)  # which rich would have fetched from elsewhere
_CHANGING = [
    (re.compile(r"ready in [\d.]+ s"), "ready in 0.5 s"),
    (re.compile(r"\bik[a-z0-9]{16}\b"), "ik7s3nfq2wd4xk6mjh"),
    (re.compile(r"(?<=ik7s3nfq2wd4xk6mjh)\.[\w-]{40,}"), "." + "•" * 43),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "2026-01-01T12:00:00Z"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "01a1fc7874ed764ba9080b9818575c4f"),
]


class Stage:
    """A folder with agents, and the port of their server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "agents.py").write_text(AGENTS, encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])

    @contextmanager
    def running(self, *words: str) -> Iterator[Seen]:
        """`innkeeper WORDS` at a terminal, as long as the block lasts."""
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME", "LANG") if name in os.environ}
        settings = {"API_PORT": self.port, "INNKEEPER_URL": f"http://127.0.0.1:{self.port}"}
        looks = {"TERM": "xterm-256color", "COLUMNS": str(WIDTH), "INNKEEPER_DATA_DIR": str(self.folder / "data")}
        master, slave = pty.openpty()
        process = subprocess.Popen(  # noqa: S603 - the words are those below
            [sys.executable, "-m", "innkeeper", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=self.folder,
            env=kept | settings | looks,
            start_new_session=True,
        )
        os.close(slave)
        try:
            yield Seen(master, words)
        finally:
            process.kill()
            process.wait()
            os.close(master)

    def told(self, text: str) -> str:
        """What was seen, without what is true of this run and this machine only."""
        text = _CONTROLS.sub("", text).replace(f" --url http://127.0.0.1:{self.port}", "")
        text = text.replace(self.port, "8000").replace(str(self.folder / "data"), "~/.innkeeper")
        for pattern, instead in _CHANGING:
            text = pattern.sub(instead, text)
        return text


class Seen:
    """What a terminal has shown, as it arrives."""

    def __init__(self, master: int, words: Sequence[str]) -> None:
        self._master = master
        self.text = f"\x1b[1m$ innkeeper {' '.join(words)}\x1b[0m\n"
        self._read_to = len(self.text)

    def wait_for(self, end: str) -> None:
        """Raises: TimeoutError with what was seen instead."""
        deadline = time.monotonic() + 60
        while end not in self.text[self._read_to :]:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{end!r} did not appear; this did: {self.text!r}")
            self.text += os.read(self._master, 65536).decode()
        self._read_to = self.text.index(end, self._read_to) + len(end)

    def rest(self) -> None:
        """All that is shown until the program has ended."""
        try:
            while chunk := os.read(self._master, 65536):
                self.text += chunk.decode()
        except OSError:  # Linux says so where the program has ended
            return

    def enter(self, line: str) -> None:
        os.write(self._master, f"{line}\n".encode())


def serving(stage: Stage) -> str:
    with stage.running("serve", "agents.py") as seen:
        seen.wait_for("Ctrl-C")
        return seen.text


def chatting(stage: Stage) -> str:
    with stage.running("serve", "agents.py") as server:
        server.wait_for("Ctrl-C")
        with stage.running("chat") as seen:
            for line in ("Hello!", "What is there to eat on Friday?", "/exit"):
                seen.wait_for("> ")
                seen.enter(line)
            seen.rest()
            return seen.text


def letting_in(stage: Stage) -> str:
    text = ""
    commands = ("tokens create --user ann --name laptop", "credits set 100 --user ann", "tokens list")
    for command in commands:
        with stage.running(*command.split()) as seen:
            seen.rest()
            text += seen.text
    return text


SCENES = {"serve": serving, "chat": chatting, "tokens": letting_in}


def screenshot(name: str) -> str:
    """Play a scene; its SVG."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder))
        text = stage.told(SCENES[name](stage))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(text.rstrip()), soft_wrap=False)
    return _FONTS.sub("", console.export_svg(title="innkeeper", unique_id=f"innkeeper-{name}"))


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for name in sys.argv[1:] or SCENES:
        (IMAGES / f"{name}.svg").write_text(screenshot(name), encoding="utf-8")
        print(f"docs/images/{name}.svg")


if __name__ == "__main__":
    main()
