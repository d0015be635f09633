"""Price files: what models cost, in YAML that an operator writes, and read again whenever it has changed.

Whoever prices runs is given the list; nobody who serves a request waits for the file.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from yaml import ScalarNode

from innkeeper.core.credits import amount_of, nanos
from innkeeper.core.errors import SetupError
from innkeeper.core.prices import Price, PriceList
from innkeeper.origins import nearest
from innkeeper.services.chores import Chore
from innkeeper.services.prices import Prices
from innkeeper.yaml_documents import Node, document, entries

_logger = logging.getLogger(__name__)

_EVERY_SECONDS = 2.0
_TOP = "models"
_KINDS = ("input", "output")

Stamp = tuple[int, int, int] | None
"""What tells one state of a file from the next; `None` of one that is not there."""


def read_prices(path: Path) -> PriceList:
    """The prices that the file says, for each 1,000,000 tokens.

    Raises: SetupError that names the file, the line and the key.
    """
    top = {name: (line, node) for name, line, node in entries(path, document(path, "price file"), "models")}
    for name, (line, _) in top.items():
        if name != _TOP:
            raise SetupError(f"{path}:{line}: unknown key {name}.{nearest(name, (_TOP,))}")
    if not top:
        raise SetupError(f"{path}: the price file says nothing; it begins with models: and a line for each model.")
    at, models = top[_TOP]
    found: dict[str, Price] = {}
    for model, line, node in entries(path, models, "openai:gpt-4o: {input: 2.5, output: 10}", at):
        found[model] = _price(path, model, line, node)
    return PriceList(found)


def _price(path: Path, model: str, line: int, node: Node) -> Price:
    told: dict[str, int] = {}
    for kind, at, value in entries(path, node, "input: 2.5 and output: 10", line):
        if kind not in _KINDS:
            raise SetupError(f"{path}:{at}: unknown key models.{model}.{kind}.{nearest(kind, _KINDS)}")
        told[kind] = _amount(path, f"models.{model}.{kind}", at, value)
    for kind in _KINDS:
        if kind not in told:
            raise SetupError(f"{path}:{line}: models.{model}: {kind} is missing; say 0 where it costs nothing.")
    return Price(**told)


def _amount(path: Path, key: str, line: int, node: Node) -> int:
    text = node.value if isinstance(node, ScalarNode) else ""
    try:
        return nanos(amount_of(text))
    except ValueError as error:
        raise SetupError(f"{path}:{line}: {key} {error}.") from None


class PriceFile:
    """Keeps `prices` as the file says; one that has become wrong leaves the last good ones, with a warning."""

    def __init__(self, path: Path, prices: Prices, *, every: float = _EVERY_SECONDS) -> None:
        self._path = path
        self._prices = prices
        self._stamp: Stamp = None
        self._chore = Chore("looking after the price file", self._refresh, first=every, every=every)

    def load(self) -> None:
        """Take what the file says.

        Raises: SetupError.
        """
        self._stamp = self._look()
        self._prices.use(read_prices(self._path))

    def open(self) -> None:
        """Look after the file from now on."""
        self._chore.open()

    async def close(self) -> None:
        """Leave the prices as they are."""
        await self._chore.close()

    async def _refresh(self) -> None:
        stamp = await asyncio.to_thread(self._look)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            prices = await asyncio.to_thread(read_prices, self._path)
        except SetupError as error:
            _logger.warning("the prices stay as they were: %s", error)
            return
        self._prices.use(prices)
        _logger.info("prices of %d models were read from %s", len(prices), self._path)

    def _look(self) -> Stamp:
        try:
            told = self._path.stat()
        except OSError:
            return None
        return told.st_mtime_ns, told.st_size, told.st_ino
