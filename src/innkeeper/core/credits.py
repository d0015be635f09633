"""Credits: what a run may cost, what it has cost, and what is left. The rules only; the store is the judge.

Balances are counted in billionths of a credit, as whole numbers, so that sums are exact in any store.
Invariant: a run never costs its caller more than was set aside for it and than is left.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant
from innkeeper.core.usage import CreditRecord, Pricing, Usage

NANOS = 1_000_000_000
MAX_CREDITS = Decimal(1_000_000_000)
"""The most that a balance, or one amount, may be."""

ORGANIZATION = ""
"""Stands for the user where a balance is the whole organization's."""

EntryKind = Literal["set", "add", "charge", "remove"]

_TOO_MUCH = f"may be {MAX_CREDITS:f} at most"
_AMOUNT = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?")


def amount_of(value: object) -> Decimal:
    """An amount as people and programs write it: a number, or a text such as `12.5`.

    Raises: ValueError that says what an amount must be.
    """
    if isinstance(value, str):
        if _AMOUNT.fullmatch(value) is None:
            raise ValueError("must be a number such as 12.5, with digits only and at most 9 of them behind the point")
        amount = Decimal(value)
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        if value > MAX_CREDITS and value < float("inf"):  # before its digits are written out
            raise ValueError(_TOO_MUCH)
        amount = Decimal(str(value)) if value else Decimal(0)
    else:
        raise ValueError("must be a number, or a text such as '12.5'")
    if not amount.is_finite() or amount < 0:
        raise ValueError("must be a finite number that is not negative")
    if amount > MAX_CREDITS:
        raise ValueError(_TOO_MUCH)
    if amount * NANOS % 1:
        raise ValueError("may have at most 9 digits behind the point")
    return amount


def nanos(credits: Decimal) -> int:
    """An amount as the balances count it, rounded half up to the billionth."""
    return int((min(credits, MAX_CREDITS) * NANOS).to_integral_value(ROUND_HALF_UP))


def credits_of(amount: int) -> Decimal:
    """What so many billionths are."""
    return Decimal(amount) / NANOS


def digits_of(amount: int) -> str:
    """So many billionths as a text with every digit that they have, and no more."""
    text = f"{credits_of(amount):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run may cost, settled before it starts.

    `worst` is the most that its price can come to, `None` where nothing bounds that: then all that is left is set
    aside, or as much of it as its ceiling. `least` must be there in any case, and more than nothing where the agent may
    track a cost that is not free. `balances` are whose are charged: the user's, and `ORGANIZATION`. Where there are
    none, the price is only booked.
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


@dataclass(frozen=True, slots=True)
class BookedCredits:
    """A `CreditRecord` as it is stored: what a run was charged, or what its agent tracked."""

    run_id: str
    owner: Owner
    user_id: str
    agent_name: str
    record: CreditRecord


@dataclass(frozen=True, slots=True)
class ModelTotal:
    """Tokens of one model over many runs, and what those of them have cost that have a price."""

    model: str
    runs: int
    input_tokens: int
    output_tokens: int
    cost: int | None


def reservation(terms: Terms, left: int) -> int | None:
    """How much of `left` is set aside for a run; `None` if it is too little."""
    pricing = terms.pricing
    if left < nanos(terms.least) or (left <= 0 and (pricing is None or pricing.max_credits)):
        return None
    if terms.worst is None:
        return left if pricing is None or pricing.max_credits is None else min(left, nanos(pricing.max_credits))
    worst = nanos(terms.worst)
    return worst if worst <= left else None


def debit(total: Decimal, ceiling: Decimal | None, reserved: int, available: int) -> int:
    """What a run that has cost `total` is charged: at most `ceiling`, and at most what is there."""
    due = nanos(total if ceiling is None else min(total, ceiling))
    return max(0, min(due, reserved + available))
