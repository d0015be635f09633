"""Prices: what the tokens of a run cost the operator, by the list that holds now. Whoever reads lists is elsewhere."""

from __future__ import annotations

from innkeeper.core.prices import Price, PriceList
from innkeeper.core.usage import Usage

_REMEMBERED = 1_000


class Prices:
    """`Prices()` knows no price, `Prices(PriceList({"openai:gpt-4o": Price(input=..., output=...)}))` those.

    `cost` is asked whenever a run ends; `use` puts another list in the place of the present one.
    """

    def __init__(self, prices: PriceList | None = None) -> None:
        self._list = prices or PriceList()
        self._known: dict[str, Price | None] = {}

    def use(self, prices: PriceList) -> None:
        """Take this list from now on. What has been priced stays as it is."""
        self._list, self._known = prices, {}

    def cost(self, usage: Usage) -> int | None:
        """In billionths of the operator's currency, rounded half up; `None` for a model without a price."""
        if not usage.model:
            return None
        price = self._price(usage.model)
        return None if price is None else price.cost(usage)

    def _price(self, model: str) -> Price | None:
        try:
            return self._known[model]
        except KeyError:
            found = self._list.find(model)
            if len(self._known) < _REMEMBERED:
                self._known[model] = found
            return found
