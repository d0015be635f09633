"""Prices: which one a model has, what its tokens come to, and rating past runs anew."""

from __future__ import annotations

import pytest

from innkeeper.core.prices import Price, PriceList
from innkeeper.core.usage import Usage
from innkeeper.services.prices import Prices

LIST = PriceList(
    {
        "openai:gpt-4o": Price(2_500_000_000, 10_000_000_000),
        "openai:gpt-*": Price(4, 4),
        "openai:gpt-4o-*": Price(3, 3),
        "openai:*": Price(5, 5),
        "azure:gpt-9": Price(6, 6),
        "openai:gpt-9": Price(7, 7),
        "plain": Price(8, 8),
        "*-embedding": Price(9, 0),
    }
)


@pytest.mark.parametrize(
    ("model", "input_price"),
    [
        ("openai:gpt-4o", 2_500_000_000),
        ("openai:gpt-4o-2024-08-06", 3),
        ("openai:gpt-5", 4),
        ("openai:o1", 5),
        ("plain", 8),
        ("small-embedding", 9),
        ("OpenAI:gpt-4o", None),
        ("plain ", None),
        ("", None),
        ("x" * 100_000, None),
    ],
)
def test_the_very_name_wins_then_the_pattern_that_says_most(model: str, input_price: int | None) -> None:
    found = LIST.find(model)
    assert (None if found is None else found.input) == input_price


@pytest.mark.parametrize(
    ("model", "input_price"),
    [("gpt-4o", 2_500_000_000), ("gpt-4o-mini", 3), ("gpt-9", None), ("o1", None), ("claude", None)],
)
def test_a_model_without_its_provider_has_a_price_where_providers_do_not_differ(
    model: str, input_price: int | None
) -> None:
    found = LIST.find(model)
    assert (None if found is None else found.input) == input_price


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(1_000_000, 0, "openai:gpt-4o"), 2_500_000_000),
        (Usage(1000, 100, "openai:gpt-4o"), 3_500_000),
        (Usage(0, 0, "openai:gpt-4o"), 0),
        (Usage(100_000, 24_999, "openai:gpt-5"), 0),
        (Usage(100_000, 25_000, "openai:gpt-5"), 1),
        (Usage(-5, -5, "openai:gpt-4o"), 0),
        (Usage(2**62, 2**62, "openai:gpt-4o"), 2**63 - 1),
        (Usage(1, 1, "unknown"), None),
        (Usage(1, 1, None), None),
    ],
)
def test_a_cost_is_counted_in_billionths_rounded_half_up(usage: Usage, cost: int | None) -> None:
    prices = Prices(LIST)
    assert prices.cost(usage) == cost
    assert prices.cost(usage) == cost, "as it is remembered"


def test_another_list_holds_at_once() -> None:
    prices = Prices(LIST)
    assert prices.cost(Usage(1_000_000, 0, "plain")) == 8
    prices.use(PriceList({"plain": Price(1, 1)}))
    assert prices.cost(Usage(1_000_000, 0, "plain")) == 1
    assert prices.cost(Usage(1_000_000, 0, "openai:gpt-4o")) is None


def test_no_number_of_models_makes_it_remember_more_and_more() -> None:
    prices = Prices(LIST)
    for number in range(5_000):
        assert prices.cost(Usage(1_000_000, 0, f"openai:gpt-4o-{number}")) == 3
    assert len(prices._known) <= 1_000
