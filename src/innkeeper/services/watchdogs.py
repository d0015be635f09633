"""Watchdogs: a thread that notices when an event loop is blocked, and says by which line of whose code.

The thread looks at what the loop executes. Only where that is anything at all, the loop is asked for a sign of life,
so that an idle server is left alone. Nobody is blamed where the thread was late itself (the process was suspended, or
native code held the interpreter), nor where the loop is busy with many short steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from pathlib import Path
from types import CodeType, FrameType

_logger = logging.getLogger(__name__)

_LOOK = 0.05  # seconds between two looks
_LATE = 0.1  # what a look may be late before it is doubted
_STANDARD_LIBRARY = f"{Path(os.__file__).parent}{os.sep}"
_OURS = f"{Path(__file__).parents[1]}{os.sep}"
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_REMEDY = (
    "Nobody is served meanwhile. Make it a plain def, which runs in a thread; or await what it waits for, with"
    " asyncio.to_thread for calls that block; or register the agent with isolated=True."
)


class Watchdog:
    """Logs one warning for each time that a loop is blocked for more than `limit` seconds, and one when it is over."""

    def __init__(self, limit: float = 0.25) -> None:
        self._limit = limit
        self._stopped = threading.Event()

    def start(self) -> None:
        """Watch the running event loop from now on, until `stop()` or the loop's end."""
        self.stop()
        self._stopped = threading.Event()
        watch = _Watch(asyncio.get_running_loop(), self._limit, self._stopped)
        threading.Thread(target=watch.keep, name="innkeeper-watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()


class _Watch:
    """The watch over one loop, made on it and kept in a thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float, stopped: threading.Event) -> None:
        self._loop = loop
        self._limit = limit
        self._stopped = stopped
        self._thread_id = threading.get_ident()
        self._base: list[CodeType] | None = None
        self._sign = threading.Event()  # set unless the loop has been asked for one
        self._sign.set()
        self._woke = time.monotonic()
        self._asked = self._answered = 0.0
        self._suspect: FrameType | None = None
        loop.call_soon(self._measure)

    def _measure(self) -> None:
        """What lies below a callback of the loop is the loop itself, and what has started it."""
        self._base = _codes(_stack(sys._getframe().f_back))

    def _answer(self) -> None:
        self._answered = time.monotonic()
        self._sign.set()

    def keep(self) -> None:
        """In the thread: look again and again, until the watch is stopped or the loop closed."""
        while not self._stopped.is_set() and not self._loop.is_closed():
            seconds = _LOOK
            if not self._sign.is_set():
                seconds = min(_LOOK, max(0.001, self._asked + self._limit - self._woke))
            late = self._late(self._stopped, seconds)
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                self._look(is_blind=late > _LATE or not self._loop.is_running())

    def _late(self, event: threading.Event, seconds: float) -> float:
        """Wait for `event`, at most so long; how much longer it is since the last time, without a gap in between."""
        event.wait(seconds)
        before, self._woke = self._woke, time.monotonic()
        return self._woke - before - seconds

    def _look(self, *, is_blind: bool) -> None:
        step, now = [] if is_blind else self._step(), self._woke
        suspect = step[-1] if step else None
        if suspect is not None and suspect is self._suspect and not self._sign.is_set():
            if now - self._asked >= self._limit:
                self._tell(place_in(step))
            return
        # Another step than at the last look: the loop moves, and the time begins anew.
        self._suspect, self._asked = suspect, now
        if suspect is not None and self._sign.is_set():
            self._sign.clear()
            self._loop.call_soon_threadsafe(self._answer)

    def _step(self) -> list[FrameType]:
        """What the loop is executing now, innermost first, without the loop itself and what has started it."""
        if self._base is None:
            return []
        stack = stack_of(self._thread_id)
        size = len(stack) - len(self._base)
        if size >= 0 and _codes(stack[size:]) == self._base:
            return stack[:size]
        self._base = None  # the loop was stopped, and has been started from elsewhere
        self._loop.call_soon_threadsafe(self._measure)
        return []

    def _tell(self, where: str) -> None:
        """Say what blocks the loop, and wait until it no longer does."""
        self._suspect = None
        if self._sign.is_set():
            return
        _logger.warning(
            "The event loop has been blocked for more than %.0f ms by %s. %s", self._limit * 1000, where, _REMEDY
        )
        suspended = 0.0
        while not self._sign.is_set() and self._loop.is_running() and not self._stopped.is_set():
            late = self._late(self._sign, _LOOK)
            suspended += late if late > _LATE else 0.0
        if self._sign.is_set():
            lasted = self._answered - self._asked - suspended + _LOOK / 2
            _logger.warning("The event loop is free again; it was blocked for %.1f s.", lasted)


def stack_of(thread_id: int) -> list[FrameType]:
    """What a thread is executing, innermost first; nothing if it has ended."""
    return _stack(sys._current_frames().get(thread_id))


def _stack(frame: FrameType | None) -> list[FrameType]:
    stack = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    return stack


def _codes(stack: list[FrameType]) -> list[CodeType]:
    return [frame.f_code for frame in stack]


def place_in(stack: list[FrameType]) -> str:
    """File, line and function of the innermost frame that is the user's own, or else of the innermost one."""
    frame = next((frame for frame in stack if _is_users(frame.f_code.co_filename)), stack[0])
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"


def _is_users(file: str) -> bool:
    if any(folder in file for folder in _INSTALLED):
        return False
    return not file.startswith((_STANDARD_LIBRARY, _OURS, "<"))
