"""Terminals: a program with a person at it, as far as it can tell. Read until something appears, then type."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_STYLES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """What a person sees and does; styles are left out of what is seen."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self._process = process
        self._master = master
        self._unread = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def enter(self, line: str) -> None:
        self.type(f"{line}\n")

    def wait_for(self, text: str, *, timeout: float = 20) -> str:
        """Everything up to and including `text`. Raises: AssertionError with what was seen instead."""
        deadline = time.monotonic() + timeout
        while text not in self._unread:
            ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
            chunk = self._read() if ready else b""
            assert chunk, f"{text!r} did not appear; this did: {self._unread!r}"
            seen = _STYLES.sub("", chunk.decode(errors="replace")).replace("\r\n", "\n")
            self._unread += seen
        before, _, self._unread = self._unread.partition(text)
        return before + text

    def wait(self, *, timeout: float = 20) -> int:
        """The exit code."""
        return self._process.wait(timeout)

    def rest(self) -> str:
        """All that is still to be seen of a program that has ended."""
        while chunk := self._read():
            self._unread += chunk.decode(errors="replace").replace("\r\n", "\n")
        return _STYLES.sub("", self._unread)

    def _read(self) -> bytes:
        try:
            return os.read(self._master, 65536)
        except OSError:  # Linux says so where the program has ended
            return b""


@contextmanager
def terminal(command: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Run `command` at a terminal of its own."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=folder,
        env={**environment, "TERM": "dumb"},
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _take_terminal() -> None:
    """In the child: make its input its controlling terminal, so that Ctrl-C reaches it as a signal."""
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which is ignored where the tests run in the background
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
