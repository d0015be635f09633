"""Timings: what a run waits for its store, and when it first speaks, measured while it is executed.

They are told with the run's end, for its trace. A commit costs two readings of a clock and an addition.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from innkeeper.core.times import Instant

_MAX_COMMITS = 8
"""Of so many commits it is kept when they were; the rest are counted."""


class Timings:
    """Of one run in one process; `began_at` is the instant at which they begin."""

    __slots__ = ("_commits", "_count", "_first_text", "_origin", "_seconds", "accept_seconds", "began_at")

    def __init__(self, began_at: Instant) -> None:
        self.began_at = began_at
        self.accept_seconds: float | None = None
        self._origin = time.perf_counter()
        self._first_text: float | None = None
        self._count = 0
        self._seconds = 0.0
        self._commits: list[tuple[float, float]] = []

    def accepted(self) -> None:
        """The run is stored."""
        self.accept_seconds = time.perf_counter() - self._origin

    def spoke(self, seconds: float) -> None:
        """The first text came so long after its agent had begun."""
        self._first_text = seconds

    def committed(self, began: float) -> None:
        """A commit that began then, by `time.perf_counter`, has been answered."""
        seconds = time.perf_counter() - began
        self._count += 1
        self._seconds += seconds
        if self._count <= _MAX_COMMITS:
            self._commits.append((began - self._origin, seconds))

    def told(self) -> Mapping[str, object]:
        """As JSON says them: milliseconds; `log` has when the first commits of the run's log began, and how long."""
        return {
            "began_at": self.began_at,
            "accept_ms": _ms(self.accept_seconds),
            "first_text_ms": _ms(self._first_text),
            "commits": self._count,
            "commit_ms": _ms(self._seconds),
            "log": [[_ms(began), _ms(seconds)] for began, seconds in self._commits],
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
