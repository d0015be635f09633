"""Supervisors: the process that holds the port, and the processes that serve on it.

It loads no agent and answers no request, so nothing that a user supplies can stop it. What ends is replaced; what is
told to end is told once, and killed if it does not. `serve.py` says what a process does at its post.
Invariant: no process outlives its supervisor: each holds one end of a pipe, and leaves when the other end has gone.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

from innkeeper.cli import failures
from innkeeper.cli.listeners import turn_away

_logger = logging.getLogger("innkeeper")

_spawn = multiprocessing.get_context("spawn")
multiprocessing.allow_connection_pickling()

_YOUNG_SECONDS = 5.0
_SHORTEST_DELAY, _LONGEST_DELAY = 0.1, 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
KILL, ROLL = signal.SIGUSR1, signal.SIGUSR2
"""By which a process that serves tells its supervisor to end all at once, and to replace them one after the other."""
_KILLED = 137


@dataclass(frozen=True, slots=True)
class Post:
    """What a process that serves is given: the port, and its lines to the supervisor."""

    listener: socket.socket
    lifeline: Connection
    reports: Connection
    number: int
    is_first_start: bool

    def hold(self, on_orphaned: Callable[[], None]) -> None:
        """Called first in the process: from now on it ends with its supervisor, after `on_orphaned`."""
        for line in (self.listener, self.lifeline, self.reports):
            os.set_inheritable(line.fileno(), False)
        # Ctrl-C reaches everybody in the terminal, and what it means is the supervisor's to say.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threading.Thread(target=self._watch, args=(on_orphaned,), name="innkeeper-lifeline", daemon=True).start()

    def _watch(self, on_orphaned: Callable[[], None]) -> None:
        with contextlib.suppress(EOFError, OSError):
            self.lifeline.recv_bytes()
        on_orphaned()
        os.kill(os.getpid(), signal.SIGTERM)

    def report_ready(self, news: Any) -> None:
        """It serves. The supervisor passes `news` on to whoever waits until all do."""
        self._report(True, news)

    def report_failure(self, text: str) -> None:
        """It cannot start, as `text` says."""
        self._report(False, text)

    def _report(self, is_ready: bool, news: Any) -> None:
        with contextlib.suppress(OSError):  # without a supervisor nobody wants to know
            self.reports.send((is_ready, news))
            self.reports.close()


@dataclass(slots=True)
class _Place:
    """One of the places that are to be filled, and who fills it. `due` is when it may be filled again."""

    number: int
    process: SpawnProcess | None = None
    reports: Connection | None = None
    began: float = 0.0
    delay: float = 0.0
    due: float = 0.0
    starts: int = 0
    is_told: bool = False
    is_ready: bool = False
    is_decided: bool = False
    has_said_why: bool = False

    def vacate(self, now: float) -> tuple[int | None, str]:
        """Let go of a process that has ended; returns its pid and how it ended."""
        assert self.process is not None, "only what was filled can be vacated"
        self.process.join()
        pid, how = self.process.pid, _ending(self.process.exitcode)
        self.process.close()
        is_young = not self.is_ready or now - self.began < _YOUNG_SECONDS
        self.process, self.is_ready, self.is_told = None, False, False
        self.delay = min(max(self.delay * 2, _SHORTEST_DELAY), _LONGEST_DELAY) if is_young else 0.0
        self.due = now + self.delay
        return pid, how


@dataclass(slots=True)
class Replacing:
    """Which places are to be filled anew, one after the other: `number` is under way, `numbers` are yet to come."""

    numbers: list[int] = field(default_factory=list)
    number: int | None = None
    deadline: float | None = None

    def give_up(self, number: int) -> None:
        """A process that took such a place did not get as far as serving: leave the others as they are."""
        if number == self.number:
            self.number = self.deadline = None
            if self.numbers:
                _logger.error("The other processes go on as they are: the first new one did not start.")
                self.numbers.clear()


class Supervisor:
    """Keeps `number` processes at work on one port until a signal comes.

    `work(post)` is what each of them does. `on_ready(news, count)` is called once, when each has started or failed to:
    with what the first had to say, and how many serve. Those that are told to end are waited for `patience` seconds.
    `on_vacated` hears the number of a place whose process has ended, before another takes it.
    """

    def __init__(
        self,
        work: Callable[[Post], None],
        listener: socket.socket,
        number: int,
        *,
        patience: float,
        on_ready: Callable[[Any, int], None],
        on_vacated: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._work = work
        self._listener = listener
        self._places = [_Place(number) for number in range(1, number + 1)]
        self._patience = patience
        self._on_ready = on_ready
        self._on_vacated = on_vacated
        self._signals: list[int] = []
        self._news: list[Any] = []
        self._failures: list[str] = []
        self._is_settled = False
        self._is_killed = False
        self._replacing = Replacing()
        self._lifeline, self._our_end = _spawn.Pipe(duplex=False)

    def run(self) -> int:
        """Returns the exit code: 0 after a signal, 130 after a second Ctrl-C, 137 if told to end all at once, 1 if no
        process could start.
        """
        # The first process would start it, and in doing so let Ctrl-C in where it is kept out.
        resource_tracker.ensure_running()
        try:
            with self._signals_heard() as heard:
                return self._keep(heard)
        finally:
            self._our_end.close()

    def _keep(self, heard: int) -> int:
        while not self._signals and not self._is_killed:
            if not self._is_settled and all(place.is_decided for place in self._places):
                self._settle()
                if not self._news:
                    return failures.FAILED
            self._fill()
            self._replace_next()
            self._look(heard, self._next_due())
        return _KILLED if self._is_killed and self._kill() else self._end(heard)

    # filling places

    def _fill(self) -> None:
        now = time.monotonic()
        for place in self._places:
            may_start = place.starts == 0 or self._is_settled
            if place.process is None and may_start and place.due <= now and not self._signals:
                self._start(place)

    def _start(self, place: _Place) -> None:
        place.reports, theirs = _spawn.Pipe(duplex=False)
        place.starts += 1
        place.has_said_why = False
        post = Post(self._listener, self._lifeline, theirs, place.number, place.starts == 1)
        place.process = _spawn.Process(target=self._work, args=(post,), name=f"innkeeper-{place.number}")
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            place.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            theirs.close()
        place.began = time.monotonic()

    def _next_due(self) -> float | None:
        """How long there is nothing to do but wait; `None` is for ever."""
        if not self._is_settled:
            return None
        dues = [place.due for place in self._places if place.process is None]
        dues += [] if self._replacing.deadline is None else [self._replacing.deadline]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _settle(self) -> None:
        """Every first start is decided: say so, or why it is not worth a second."""
        self._is_settled = True
        for text in dict.fromkeys(self._failures):
            print(text, file=sys.stderr, flush=True)
        if self._news:
            self._on_ready(self._news[0], sum(place.is_ready for place in self._places))
        elif not self._failures:
            print("Error: No process got as far as serving; see above.", file=sys.stderr, flush=True)

    # watching

    def _look(self, heard: int, timeout: float | None) -> None:
        """Wait until something happens, and take note of it."""
        reports = {place.reports: place for place in self._places if place.reports is not None}
        sentinels = {place.process.sentinel: place for place in self._places if place.process is not None}
        for one in wait([heard, *reports, *sentinels], timeout):
            if one == heard:
                os.read(heard, 512)
            elif isinstance(one, Connection):
                self._receive(reports[one])
        for sentinel in wait(list(sentinels), 0):
            assert isinstance(sentinel, int), "a sentinel is a descriptor"
            self._replace(sentinels[sentinel])

    def _receive(self, place: _Place) -> None:
        assert place.reports is not None, "it has just been waited for"
        with contextlib.suppress(EOFError, OSError):
            is_ready, news = place.reports.recv()
            place.is_ready, place.has_said_why = is_ready, not is_ready
            (self._news if is_ready else self._failures).append(news)
            place.is_decided = place.is_decided or is_ready
        place.reports.close()
        place.reports = None

    def _replace(self, place: _Place) -> None:
        if place.reports is not None:  # it may have said why
            self._receive(place)
        place.is_decided = True
        was_told, was_ready = place.is_told, place.is_ready
        pid, how = place.vacate(time.monotonic())
        self._on_vacated(place.number)
        if not was_told and not was_ready:
            self._replacing.give_up(place.number)
        if not self._signals and not place.has_said_why and not was_told:
            when = f"in {place.delay:.1f} s" if place.delay else "now"
            _logger.warning("Process %s, which served, ended: %s. Another takes its place %s.", pid, how, when)

    # replacing all, one after the other

    def _replace_next(self) -> None:
        """Tell the next one to end once the one before it has been replaced."""
        turn = self._replacing
        place = next((one for one in self._places if one.number == turn.number), None)
        if place is not None and place.process is not None and place.is_told:
            if turn.deadline is not None and time.monotonic() >= turn.deadline:
                self._tell(place, signal.SIGKILL)
                turn.deadline = None
            return
        if place is not None and not place.is_ready:
            return
        turn.number = turn.deadline = None
        while turn.numbers:
            place = self._places[turn.numbers.pop(0) - 1]
            if place.process is not None and place.is_ready:
                turn.number, turn.deadline = place.number, time.monotonic() + self._patience
                place.is_told = True
                self._tell(place, signal.SIGTERM)
                return

    # ending

    def _kill(self) -> bool:
        self._tell_all(signal.SIGKILL)
        return True

    def _end(self, heard: int) -> int:
        """Have all end, and wait for them; the port is given up at once, for nobody would serve who comes now."""
        turn_away(self._listener)
        self._tell_all(signal.SIGTERM)
        self._listener.close()
        deadline = time.monotonic() + self._patience
        while any(place.process is not None for place in self._places):
            left = deadline - time.monotonic()
            if left <= 0 or signal.SIGINT in self._signals[1:] or self._is_killed:
                break
            self._look(heard, left)
        late = [place.process for place in self._places if place.process is not None]
        self._tell_all(signal.SIGKILL)
        for process in late:
            process.join()
        if self._is_killed:
            return _KILLED
        return failures.INTERRUPTED if late and signal.SIGINT in self._signals[1:] else 0

    def _tell_all(self, number: signal.Signals) -> None:
        for place in self._places:
            self._tell(place, number)

    @staticmethod
    def _tell(place: _Place, number: signal.Signals) -> None:
        if place.process is not None and place.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(place.process.pid, number)

    # signals

    @contextlib.contextmanager
    def _signals_heard(self) -> Iterator[int]:
        """Yields a descriptor that can be read whenever a signal has come."""
        heard, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._hear)
        signal.signal(KILL, self._hear_of_killing)
        signal.signal(ROLL, self._hear_of_replacing)
        yield heard

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)

    def _hear_of_killing(self, number: int, _: FrameType | None) -> None:
        self._is_killed = True

    def _hear_of_replacing(self, number: int, _: FrameType | None) -> None:
        self._replacing.numbers[:] = [place.number for place in self._places]


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
