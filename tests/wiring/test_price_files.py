"""Price files: what they may say, which mistakes are told where, and how a change is taken while a server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from innkeeper.core.errors import SetupError
from innkeeper.core.prices import Price
from innkeeper.core.usage import Usage
from innkeeper.services.prices import Prices
from innkeeper.wiring.price_files import PriceFile, read_prices

GOOD = """
# In dollars, for 1,000,000 tokens.
models:
  "openai:gpt-4o": {input: 2.50, output: 10}
  openai:gpt-*:
    input: "0.000000001"
    output: 0
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prices.yaml"


def test_prices_are_read_to_the_last_digit(path: Path) -> None:
    path.write_text(GOOD)
    prices = read_prices(path)
    assert len(prices) == 2
    assert prices.find("openai:gpt-4o") == Price(2_500_000_000, 10_000_000_000)
    assert prices.find("openai:gpt-5") == Price(1, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ": the price file says nothing; it begins with models:"),
        ("{}", ": the price file says nothing"),
        ("- a", ":1: here belong keys, such as models."),
        ("model:\n  a: {input: 1, output: 1}", ":1: unknown key model. Did you mean 'models'?"),
        ("models: 5", ":1: here belong keys, such as openai:gpt-4o: {input: 2.5, output: 10}."),
        ("models:\n  a: 5", ":2: here belong keys, such as input: 2.5 and output: 10."),
        ("models:\n  a: {input: 1}", ":2: models.a: output is missing; say 0 where it costs nothing."),
        ("models:\n  a: {input: 1, outputs: 1}", ":2: unknown key models.a.outputs. Did you mean 'output'?"),
        ("models:\n  a:\n    input: 1\n    output: -1", ":4: models.a.output must be a number"),
        ("models:\n  a: {input: .nan, output: 1}", ":2: models.a.input must be a number"),
        ("models:\n  a: {input: 1e3, output: 1}", ":2: models.a.input must be a number"),
        ("models:\n  a: {input: [1], output: 1}", ":2: models.a.input must be a number"),
        ("models:\n  a: {input: 9999999999, output: 1}", ":2: models.a.input may be 1000000000 at most"),
        ("models:\n  a: {input: 1, output: 1}\n  a: {input: 2, output: 2}", ":3: a is here twice; it stands in line 2"),
        ("models:\n  a: {input: 1", ":2: this is not valid YAML"),
        ("models: !!python/object/apply:os.system [ls]", ":1: here belong keys"),
    ],
)
def test_a_mistake_is_told_with_its_file_its_line_and_its_key(path: Path, text: str, told: str) -> None:
    path.write_text(text)
    with pytest.raises(SetupError) as raised:
        read_prices(path)
    assert raised.value.message.startswith(f"{path}{told}"), raised.value.message


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read: No such file or directory."), (b"\xff\xfe\xfa", "is not text in UTF-8.")],
)
def test_a_file_that_cannot_be_read_is_told(path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError, match=f"The price file .* {told}"):
        read_prices(path)


# while a server runs


@pytest.fixture
def prices() -> Prices:
    return Prices()


@pytest.fixture
async def file(path: Path, prices: Prices) -> AsyncIterator[PriceFile]:
    path.write_text("models: {a: {input: 1, output: 1}}")
    watched = PriceFile(path, prices, every=0.01)
    watched.load()
    watched.open()
    yield watched
    await watched.close()


def price(prices: Prices, model: str = "a") -> int | None:
    return prices.cost(Usage(1_000_000, 0, model))


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


def replace(path: Path, text: str) -> None:
    """As editors do: whole, and at once."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


@pytest.mark.usefixtures("file")
async def test_a_file_that_has_changed_is_read_again(path: Path, prices: Prices) -> None:
    assert price(prices) == 1_000_000_000
    replace(path, "models: {a: {input: 2, output: 1}}")
    await until(lambda: price(prices) == 2_000_000_000)


@pytest.mark.usefixtures("file")
async def test_a_file_that_has_become_wrong_leaves_the_last_good_prices_with_one_warning(
    path: Path, prices: Prices, caplog: pytest.LogCaptureFixture
) -> None:
    replace(path, "models: {a: {input: none, output: 1}}")
    await until(lambda: "models.a.input must be a number" in caplog.text)
    path.unlink()
    await until(lambda: "cannot be read" in caplog.text)
    await asyncio.sleep(0.1)  # several looks at the same state
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2 and all("the prices stay as they were" in one.getMessage() for one in warnings)
    assert price(prices) == 1_000_000_000
    replace(path, "models: {a: {input: 3, output: 1}}")
    await until(lambda: price(prices) == 3_000_000_000)
