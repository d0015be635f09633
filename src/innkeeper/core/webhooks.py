"""Webhooks: a run's end, told to a URL that its request named, and when that is tried again.

What is told, and how it is signed, is the service's; who may be told is the sender's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from innkeeper.core.runs import Run
from innkeeper.core.times import Instant

HOLD = 60 * 1_000_000
"""Microseconds for which a delivery that was taken is nobody else's."""

RETRIES: Sequence[float] = (5.0, 30.0, 120.0, 600.0, 3_600.0, 21_600.0)
"""Seconds from each failed attempt to the next; the attempt after the last of them is the last."""

SPREAD = 0.1
"""By how much of itself a pause may be longer or shorter, so that what failed together is not tried together."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One run's end on its way to one URL. `attempt` counts from 1 how often it was taken, this time included.

    The id is the same at each attempt: by it the receiver knows what it has seen.
    """

    id: str
    run: Run
    url: str
    attempt: int


def retry_at(attempt: int, now: Instant, chance: float, retries: Sequence[float] = RETRIES) -> Instant | None:
    """When to try again after `attempt` has failed, or `None`: that was the last. `chance` is in 0 to 1."""
    if attempt > len(retries):
        return None
    pause = retries[max(attempt, 1) - 1] * (1 + SPREAD * (2 * chance - 1))
    return Instant(now + round(pause * 1_000_000))
