"""Sizes: how much a test does. What is promised is shown in full with `INNKEEPER_TEST_FULL=1`, by the same code."""

from __future__ import annotations

import os
from collections.abc import Sequence

IS_FULL = bool(os.environ.get("INNKEEPER_TEST_FULL"))


def sized(full: int, everyday: int) -> int:
    """How many: all that is promised, or enough to notice that something is broken."""
    return full if IS_FULL else everyday


def within(promised: float, otherwise: float) -> float:
    """Seconds: what is promised of a quiet machine, or what a busy one may need; what never comes takes longer."""
    return promised if IS_FULL else otherwise


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many of a hundred do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
