"""Pricing: what a run of an agent costs, in credits."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import TypeVar

from innkeeper.core.credits import MAX_CREDITS
from innkeeper.core.errors import Invalid, SetupError
from innkeeper.core.usage import Pricing

AgentT = TypeVar("AgentT")


def pricing(
    credits_per_request: int | float | Decimal = 0,
    credits_per_token: int | float | Decimal = 0,
    max_credits: int | float | Decimal | None = None,
) -> Callable[[AgentT], AgentT]:
    """Declare what a run of the decorated agent costs: a flat part, a part for each output token, a ceiling.

    The charge is booked when the run ends. Raises: Invalid if an amount is negative, infinite, or beyond all balances.
    """
    declared = Pricing(
        _amount(credits_per_request, "credits_per_request"),
        _amount(credits_per_token, "credits_per_token"),
        None if max_credits is None else _amount(max_credits, "max_credits"),
    )

    def declare(agent: AgentT) -> AgentT:
        try:
            agent.__innkeeper_pricing__ = declared  # type: ignore[attr-defined]
        except AttributeError:
            raise SetupError(f"{agent!r:.80} cannot carry a price: decorate its function or its class.") from None
        return agent

    return declare


def _amount(value: int | float | Decimal, name: str) -> Decimal:
    try:
        amount = Decimal(str(value))
    except (InvalidOperation, ValueError):  # of an integer with more digits than Python writes
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise Invalid(f"{name} must be a finite number that is not negative.", param=name)
    if amount > MAX_CREDITS:
        raise Invalid(f"{name} must be {MAX_CREDITS:f} at most.", param=name)
    return amount
