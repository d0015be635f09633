"""What counts towards rates, for this process alone or for all that share a store of counts."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from innkeeper.core.rates import Rate, Verdict


class Limiter(Protocol):
    """A window begins with the first that is counted in it, and the next one with the first after its end.

    Of what is counted in one window, as much as the rate's amount is allowed, and nothing beyond it. What is refused
    prolongs nothing. Counts of different rules, and of different callers, do not touch each other. Counting never
    raises and never blocks the event loop.
    """

    def hit(self, rule: str, who: str, rate: Rate) -> Verdict | Awaitable[Verdict]:
        """Count one under a rule. A rule has one rate."""

    async def close(self) -> None:
        """Let go of connections. Idempotent; counting goes on all the same."""
