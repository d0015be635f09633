"""The warden: a process that outlives the tests by a moment and ends what they left behind.

However pytest ends, `kill -9` included, the pipe between them closes; the warden then signals the process
groups that are still in its care, and removes their folders. It works alike on Linux and macOS.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_warden: subprocess.Popen[str] | None = None


def entrust(process: subprocess.Popen[bytes], *, ending: signal.Signals, folder: Path | None = None) -> None:
    """Should we vanish, have the group that `process` leads ended with `ending`, and `folder` removed."""
    _tell(f"{process.pid} {ending.value} {folder or ''}\n")


def dismiss(process: subprocess.Popen[bytes]) -> None:
    """The process has ended as it should."""
    _tell(f"{process.pid}\n")


def _tell(line: str) -> None:
    global _warden
    if _warden is None:
        _warden = subprocess.Popen(
            [sys.executable, "-I", __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        atexit.register(_release, _warden)
    assert _warden.stdin is not None
    _warden.stdin.write(line)
    _warden.stdin.flush()


def _release(warden: subprocess.Popen[str]) -> None:
    warden.communicate()


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end(group: int, number: int, folder: str) -> None:
    if _signal(group, number) and number != signal.SIGKILL:
        deadline = time.monotonic() + 3
        while _signal(group, 0) and time.monotonic() < deadline:
            time.sleep(0.02)
        _signal(group, signal.SIGKILL)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def _keep_watch() -> None:
    charges: dict[int, tuple[int, str]] = {}
    for line in sys.stdin:
        group, *terms = line.rstrip("\n").split(" ", 2)
        if terms:
            charges[int(group)] = (int(terms[0]), terms[1])
        else:
            charges.pop(int(group), None)
    for group, (number, folder) in charges.items():
        _end(group, number, folder)


if __name__ == "__main__":
    _keep_watch()
