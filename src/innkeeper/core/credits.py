"""Credits: what a run may cost, what it has cost, and what is left. The rules only; the store is the judge.

Balances are counted in billionths of a credit, as whole numbers, so that sums are exact in any store.
Invariant: a run never costs its caller more than was set aside for it and than is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant
from innkeeper.core.usage import Pricing, Usage

NANOS = 1_000_000_000
MAX_CREDITS = Decimal(1_000_000_000)
"""The most that a balance, or one amount, may be."""

ORGANIZATION = ""
"""Stands for the user where a balance is the whole organization's."""

EntryKind = Literal["set", "add", "charge", "remove"]


def nanos(credits: Decimal) -> int:
    """An amount as the balances count it, rounded half up to the billionth."""
    return int((min(credits, MAX_CREDITS) * NANOS).to_integral_value(ROUND_HALF_UP))


def credits_of(amount: int) -> Decimal:
    """What so many billionths are."""
    return Decimal(amount) / NANOS


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run may cost, settled before it starts.

    `worst` is the most that its price can come to, `None` where nothing bounds that: then all that is left is set
    aside. `least` must be there in any case. `balances` are whose are charged: the user's, and `ORGANIZATION`. Where
    there are none, the price is only booked.
    """

    pricing: Pricing | None = None
    worst: Decimal | None = Decimal(0)
    least: Decimal = Decimal(0)
    balances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Balance:
    """What is left to a user, or, where `user` is `ORGANIZATION`, to an organization; in billionths."""

    organization: str
    user: str
    available: int
    reserved: int
    updated_at: Instant

    @property
    def total(self) -> int:
        return self.available + self.reserved


@dataclass(frozen=True, slots=True)
class BalanceEntry:
    """One movement of a balance, and what it left; the movements sum up to the balance."""

    id: str
    organization: str
    user: str
    kind: EntryKind
    amount: int
    balance: int
    run_id: str | None
    actor: str
    reason: str
    created_at: Instant


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """Tokens of one model in one run, and what they cost the operator, in billionths; `None` without a price."""

    usage: Usage
    cost: int | None = None


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """A `ModelUsage` as it is stored."""

    run_id: str
    owner: Owner
    user_id: str
    agent_name: str
    model: str
    input_tokens: int
    output_tokens: int
    cost: int | None
    created_at: Instant


def reservation(terms: Terms, left: int) -> int | None:
    """How much of `left` is set aside for a run; `None` if it is too little."""
    least = nanos(terms.least)
    if left < least or (terms.pricing is None and left <= 0):
        return None
    if terms.worst is None:
        return left
    worst = nanos(terms.worst)
    return worst if worst <= left else None


def debit(total: Decimal, ceiling: Decimal | None, reserved: int, available: int) -> int:
    """What a run that has cost `total` is charged: at most `ceiling`, and at most what is there."""
    due = nanos(total if ceiling is None else min(total, ceiling))
    return min(due, reserved + available)
