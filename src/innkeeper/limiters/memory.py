"""Counts in memory: those of this process alone.

Invariant: a rule never keeps more than `MOST` callers. The one whose window began first is forgotten for another, so
that a flood of addresses costs memory that is bounded, and some of them their count.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from innkeeper.core.rates import Rate, Verdict

MOST = 30_000
"""About 10 MB of addresses."""

_Windows = OrderedDict[str, list[float]]  # of a plain one, whose first keys are removed, the first is slow to find
"""How many, and until when, by caller. Of one rule all windows are equally long, so the first to begin ends first."""


class MemoryLimiter:
    """Implements `ports.limits.Limiter`; a verdict is there at once. `clock` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._rules: dict[str, _Windows] = {}

    def hit(self, rule: str, who: str, rate: Rate) -> Verdict:
        now = self._clock()
        windows = self._rules.get(rule)
        if windows is None:
            windows = self._rules[rule] = OrderedDict()
        window = windows.get(who)
        if window is None or window[1] <= now:
            window = self._begun(windows, who, now, now + rate.seconds)
        window[0] += 1
        left = rate.amount - int(window[0])
        return Verdict(left >= 0, rate.amount, max(left, 0), window[1] - now)

    def _begun(self, windows: _Windows, who: str, now: float, until: float) -> list[float]:
        """A new window; two that have ended make room, so that a flood is forgotten as fast as it came."""
        windows.pop(who, None)
        for _ in range(2):
            oldest = next(iter(windows), None)
            if oldest is None or (windows[oldest][1] > now and len(windows) < self._most):
                break
            del windows[oldest]
        window = windows[who] = [0, until]
        return window

    def __len__(self) -> int:
        """How many windows are kept."""
        return sum(map(len, self._rules.values()))

    async def close(self) -> None:
        """Nothing is open."""
