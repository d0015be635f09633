"""Usage: what a run consumed, as its agent reported it. Nothing here is estimated or invented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one run; sums over all of its model calls."""

    input_tokens: int = 0
    output_tokens: int = 0
    model: str | None = None

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def plus(self, other: Usage) -> Usage:
        """Both together, with counts of at most `MAX_TOKENS`, so that a store can add up those of millions of runs."""
        return Usage(
            min(self.input_tokens + other.input_tokens, MAX_TOKENS),
            min(self.output_tokens + other.output_tokens, MAX_TOKENS),
            other.model or self.model,
        )


MAX_TOKENS = 2**40
"""The most tokens that one report counts; any more is a mistake of whoever reports."""

MAX_MODEL_NAME = 256
"""Characters; a store finds usage by it."""


def bounded(usage: Usage) -> Usage:
    """What an agent reported, with counts that are whole numbers from 0 to `MAX_TOKENS` and a name that can be kept."""
    counts, model = (usage.input_tokens, usage.output_tokens), usage.model
    is_countable = all(type(count) is int and 0 <= count <= MAX_TOKENS for count in counts)
    if is_countable and (model is None or (type(model) is str and len(model) <= MAX_MODEL_NAME)):
        return usage
    given, made = (min(max(int(count), 0), MAX_TOKENS) for count in counts)
    return Usage(given, made, None if model is None else str(model)[:MAX_MODEL_NAME])


@dataclass(frozen=True, slots=True)
class CreditRecord:
    """One entry of the ledger in credits: a `track_usage` call or a charge from `@pricing`."""

    id: str
    credits: Decimal
    reason: str
    metadata: Mapping[str, object] = field(default_factory=dict)
    recorded_at: int = 0


@dataclass(frozen=True, slots=True)
class Pricing:
    """What `@pricing` declared for an agent, in credits."""

    credits_per_request: Decimal = Decimal(0)
    credits_per_token: Decimal = Decimal(0)
    max_credits: Decimal | None = None

    @property
    def is_tracked_alone(self) -> bool:
        """Whether a run costs what its agent tracks, up to a ceiling, and nothing else."""
        return bool(self.max_credits) and not self.credits_per_request and not self.credits_per_token

    def charge(self, usage: Usage | None) -> Decimal:
        """The price of one run: the flat part plus output tokens, at most `max_credits`."""
        tokens = usage.output_tokens if usage else 0
        price = self.credits_per_request + self.credits_per_token * tokens
        return price if self.max_credits is None else min(price, self.max_credits)
