"""Prices: what models cost the operator for their tokens. What runs cost their callers is `usage.Pricing`.

Counted in billionths of the operator's currency for each 1,000,000 tokens, as whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from innkeeper.core.usage import Usage

MILLION = 1_000_000
_MOST = 2**63 - 1
_WILD = "*"
_LONGEST = 256


@dataclass(frozen=True, slots=True)
class Price:
    """Of 1,000,000 tokens that a model reads, and of as many that it writes; in billionths."""

    input: int
    output: int

    def cost(self, usage: Usage) -> int:
        """In billionths, rounded half up, and at most what a store can count."""
        due = max(usage.input_tokens, 0) * self.input + max(usage.output_tokens, 0) * self.output
        return min((due + MILLION // 2) // MILLION, _MOST)


class PriceList:
    """Prices by the names of models, in which `*` stands for any characters.

    The very name wins, then the pattern with the most characters of its own. A model that was reported without its
    provider (`gpt-4o` for `openai:gpt-4o`) is looked for by what follows the provider, where nothing fits it as it is;
    it has no price there if providers differ about it, and `openai:*` says nothing of it.
    """

    def __init__(self, prices: Mapping[str, Price] | None = None) -> None:
        self._whole = _Names(prices or {})
        of_providers: dict[str, dict[str, Price]] = {}
        for name, price in (prices or {}).items():
            provider, colon, bare = name.partition(":")
            if colon and bare.strip(_WILD):
                of_providers.setdefault(provider, {})[bare] = price
        self._bare = [_Names(bare) for bare in of_providers.values()]

    def __len__(self) -> int:
        return len(self._whole)

    def find(self, model: str) -> Price | None:
        if len(model) > _LONGEST:
            return None
        found = self._whole.find(model)
        if found is not None or ":" in model:
            return found
        of_providers = {price for names in self._bare if (price := names.find(model)) is not None}
        return of_providers.pop() if len(of_providers) == 1 else None


class _Names:
    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._exact = {name: price for name, price in prices.items() if _WILD not in name}
        wild = (name for name in prices if _WILD in name)
        ranked = sorted(wild, key=lambda name: (-len(name.replace(_WILD, "")), name))
        self._wild = [(_pattern(name), prices[name]) for name in ranked]

    def __len__(self) -> int:
        return len(self._exact) + len(self._wild)

    def find(self, model: str) -> Price | None:
        if model in self._exact:
            return self._exact[model]
        return next((price for pattern, price in self._wild if pattern.fullmatch(model)), None)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(".*?".join(re.escape(part) for part in re.split(r"\*+", name)), re.DOTALL)
