"""Credits: what a run may cost, worked out before it is accepted, and when a run under way has spent that.

Whether somebody has a balance is remembered for a second, so that those who have none pay nothing for asking; whether
it is enough, the store decides in the commit that accepts the run.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from innkeeper.core.agents import AgentDescription
from innkeeper.core.credits import ORGANIZATION, Terms, credits_of
from innkeeper.core.runs import Parameters, Run
from innkeeper.core.usage import MAX_TOKENS, CreditRecord, Pricing, Usage
from innkeeper.ports.accounts import CreditReader

LIFETIME = 1.0
MAX_KNOWN = 10_000

_NONE: tuple[str, ...] = ()


class Credits:
    """Belongs to one event loop. `max_tokens` is what the operator bounds every answer by, if anything."""

    def __init__(
        self, credits: CreditReader, *, max_tokens: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._credits = credits
        self._max_tokens = max_tokens
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[float, tuple[str, ...]]] = OrderedDict()
        self._nobody_until = 0.0

    async def terms(
        self,
        organization: str,
        user_id: str,
        agent: AgentDescription,
        parameters: Parameters,
        *,
        may_be_anothers: bool = False,
    ) -> Terms | None:
        """What a run may cost this user; `None` where it costs nothing and nothing bounds the user.

        A session that `may_be_anothers` is charged to whose it is, which the store knows.

        Raises: StorageUnavailable.
        """
        balances = _NONE if self._nobody_until > self._clock() else await self._balances(organization, user_id)
        pricing = agent.pricing
        if not balances and (not may_be_anothers or self._nobody_until > self._clock()):
            return None if pricing is None else Terms(pricing)
        if pricing is None:
            return Terms(None, balances=balances)
        limits = [limit for limit in (parameters.max_tokens, self._max_tokens) if limit is not None]
        worst = _worst(pricing, min(limits) if limits else None)
        least = pricing.credits_per_request + pricing.credits_per_token
        return Terms(pricing, worst, _at_most(pricing, least), balances)

    async def _balances(self, organization: str, user_id: str) -> tuple[str, ...]:
        """Of the user and the organization, who has a balance."""
        now, key = self._clock(), (organization, user_id)
        known = self._known.get(key)
        if known is not None and known[0] > now:
            return known[1]
        if not await self._credits.has_any():
            self._nobody_until = now + LIFETIME
            return _NONE
        found = await self._credits.balances(organization, (ORGANIZATION, user_id))
        balances = tuple(balance.user for balance in found)
        self._known[key] = (now + LIFETIME, balances)
        self._known.move_to_end(key)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return balances

    async def tracked(self, run_id: str) -> Sequence[CreditRecord]:
        """What a run has tracked so far. Raises: StorageUnavailable."""
        return await self._credits.records_of(run_id)

    def changed(self) -> None:
        """A balance was made or removed here: it holds at once."""
        self._nobody_until = 0.0
        self._known.clear()


def _worst(pricing: Pricing, output_limit: int | None) -> Decimal | None:
    """The most that a price can come to; `None` where nothing bounds it."""
    if pricing.is_tracked_alone:
        return None
    if not pricing.credits_per_token:
        return _at_most(pricing, pricing.credits_per_request)
    if output_limit is None:
        return pricing.max_credits
    return _at_most(pricing, pricing.credits_per_request + pricing.credits_per_token * output_limit)


def _at_most(pricing: Pricing, amount: Decimal) -> Decimal:
    return amount if pricing.max_credits is None else min(amount, pricing.max_credits)


@dataclass(frozen=True, slots=True)
class Spending:
    """What bounds a run while it is executed: the most that its price may come to, and the most that it may in all.

    What an agent tracks counts for the latter only: it is charged as far as anything is left.
    """

    pricing: Pricing
    price_limit: Decimal | None
    limit: Decimal | None

    def is_over(self, usage: Usage | None, tracked: Decimal) -> bool:
        """Whether a run that has consumed so much has come to more than it may."""
        tokens = usage.output_tokens if usage else 0
        price = self.pricing.credits_per_request + self.pricing.credits_per_token * tokens
        if self.price_limit is not None and price > self.price_limit:
            return True
        return self.limit is not None and price + tracked > self.limit

    def affordable_tokens(self, usage: Usage | None) -> int | None:
        """How many tokens of output a run that has consumed so much can pay for yet; `None` where none costs anything.

        It is one at least, as no model can be asked for less.
        """
        limits = [limit for limit in (self.price_limit, self.limit) if limit is not None]
        if not self.pricing.credits_per_token or not limits:
            return None
        left = (min(limits) - self.pricing.credits_per_request) / self.pricing.credits_per_token
        return min(max(1, int(left) - (usage.output_tokens if usage else 0)), MAX_TOKENS)


def spending_of(run: Run) -> Spending | None:
    """What bounds a run; `None` where nothing does."""
    pricing = run.pricing
    if pricing is None or (pricing.max_credits is None and run.reserved is None):
        return None
    reserved, ceiling = None if run.reserved is None else credits_of(run.reserved), pricing.max_credits
    if pricing.is_tracked_alone and reserved is not None:  # nothing else was left
        ceiling = reserved
    return Spending(pricing, reserved, ceiling)
