"""Restarts: a process that becomes its own successor, with the same arguments, environment, pid and port.

The successor is handed the socket as systemd hands sockets over (`LISTEN_FDS`), so that whoever connects meanwhile
waits and is not refused. Nothing else of the process goes along. Where another process keeps this one, it is told.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from innkeeper.cli.failures import FAILED
from innkeeper.cli.listeners import FIRST_HANDED, keep_from_forks


@dataclass(frozen=True, slots=True)
class Ways:
    """How the whole server is begun anew, where it can be, and ended at once, from whichever of its processes."""

    kill: Callable[[], None]
    restart: Callable[[], None] | None = None


class Restart:
    """What this process needs to begin anew, noted before user code can change it. `is_asked` is whether it shall."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener.dup()
        keep_from_forks([self._listener])
        self._inherited = _inheritable()
        self._folder = Path.cwd()
        self._environment = dict(os.environ)
        self.is_asked = False
        self.on_ask: Callable[[], None] = lambda: None
        """Ends what this process serves."""

    def ask(self) -> None:
        """Begin anew once what is served has ended; one who is about to end anyway does that."""
        self.on_ask()

    def give_up(self) -> None:
        """There will be no successor: the port is free for others as soon as this process lets go of it."""
        self.is_asked = False
        self._listener.close()

    def depart(self, code: int) -> NoReturn:
        """End the process with this exit code, or by beginning anew where that was asked."""
        if self.is_asked and threading.current_thread() is threading.main_thread():
            # From here on a signal has no other to tell: it would be lost with this program, and the next one serve.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
        if self.is_asked:
            with contextlib.suppress(OSError):
                self.begin_anew()
            code = FAILED
        os._exit(code)

    def begin_anew(self) -> NoReturn:
        """Become the successor. Whatever has not ended by now ends here.

        Raises: OSError.
        """
        for descriptor in _inheritable() - self._inherited:  # libraries that are not Python's leave theirs open
            os.set_inheritable(descriptor, False)
        os.dup2(self._listener.fileno(), FIRST_HANDED, inheritable=True)
        os.chdir(self._folder)
        signal.setitimer(signal.ITIMER_REAL, 0)  # it would go on, and end the successor
        environment = {**self._environment, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - it is our own


def _inheritable() -> set[int]:
    """The descriptors that a successor would get, beside its standard streams."""
    found = set()
    with contextlib.suppress(OSError):  # no system has to tell
        for number in [int(path.name) for path in Path("/dev/fd").iterdir()]:
            with contextlib.suppress(OSError):  # the folder's own has been closed by now
                if number > 2 and os.get_inheritable(number):
                    found.add(number)
    return found


@dataclass(frozen=True, slots=True)
class Keeper:
    """The process that puts another in the place of this one, and the signals by which it is told what to do."""

    to_kill: signal.Signals
    to_restart: signal.Signals | None = None
    heeds_ctrl_c: bool = True


def ways_of(keeper: Keeper | None, successor: Restart | None) -> Ways:
    def kill() -> None:
        tell(keeper, signal.SIGKILL if keeper is None else keeper.to_kill)
        if keeper is not None and keeper.to_kill is signal.SIGKILL:
            os.kill(os.getpid(), signal.SIGKILL)

    if successor is not None:
        return Ways(kill, successor.ask)
    return Ways(kill, partial(tell, keeper, keeper.to_restart) if keeper and keeper.to_restart else None)


def tell(keeper: Keeper | None, number: signal.Signals) -> None:
    """A signal to the process that keeps this one; if there is none any more, the end of this one."""
    parent = multiprocessing.parent_process()
    if keeper is None or parent is None or parent.pid is None:
        os.kill(os.getpid(), number)
    elif parent.is_alive():
        os.kill(parent.pid, number)
    else:
        os.kill(os.getpid(), signal.SIGTERM)
