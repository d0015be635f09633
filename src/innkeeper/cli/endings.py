"""Endings: how the process of a server ends, in time and whatever user code does meanwhile.

Python would wait for threads, and those of synchronous agents may never end, so it is not asked. Imports nothing heavy.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

_logger = logging.getLogger("innkeeper")

_AFTER_DRAIN_SECONDS = 9.0
_GOODBYE_SECONDS = 3.0
_LAST_WORDS_SECONDS = 0.2


def longest_end(drain_seconds: float) -> float:
    """How many seconds after the first signal a server is gone, whatever happens."""
    return drain_seconds + _AFTER_DRAIN_SECONDS


Depart = Callable[[int], object]
"""Ends the process with this exit code, or lets its successor take its place; it does not return."""


def leave_after(seconds: float, code: int = 0, depart: Depart = os._exit) -> None:
    """End the process then, if it has not ended by itself."""

    def leave_now() -> None:
        words = "The server did not end within %.0f s and is ended now.", seconds
        # Whoever reads the log may have stopped reading, and the log then waits for ever.
        saying = threading.Thread(target=_logger.error, args=words, daemon=True)
        saying.start()
        saying.join(_LAST_WORDS_SECONDS)
        depart(code)

    timer = threading.Timer(seconds, leave_now)
    timer.daemon = True
    timer.start()


def on_signal_anywhere(act: Callable[[], None]) -> None:
    """Call `act` in a thread when SIGINT or SIGTERM comes, even while the main thread is in code that heeds none.

    Python runs handlers between its own instructions, and a C library may wait for hours in one.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    loops = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def listen() -> None:
        while True:
            numbers = os.read(reading, 64)
            if not {signal.SIGINT, signal.SIGTERM}.isdisjoint(numbers):
                act()
            if loops != -1:
                with contextlib.suppress(OSError):
                    os.write(loops, numbers)

    threading.Thread(target=listen, name="innkeeper-signals", daemon=True).start()


def leave_by_alarm(seconds: float, depart: Depart = os._exit) -> None:
    """The same for a main thread that lets no other one run, as an endless regular expression does.

    It does look for signals.
    """
    signal.signal(signal.SIGALRM, lambda *_: depart(0))
    signal.setitimer(signal.ITIMER_REAL, seconds + 1.5 * _LAST_WORDS_SECONDS)


def leave(code: int, depart: Depart = os._exit) -> NoReturn:
    """End the process without waiting for threads, but with everything else that Python does at its end."""
    leave_after(_GOODBYE_SECONDS, code, depart)
    local = sys.modules.get("innkeeper.runtimes.local")
    if local is not None:
        local.shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    depart(code)
    os._exit(code)
