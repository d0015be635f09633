"""Accounting: the services that keep balances, prices and the audit log, for a server and for commands alike."""

from __future__ import annotations

from collections.abc import Callable

from innkeeper.config import Settings
from innkeeper.core.errors import SetupError
from innkeeper.http.contexts import new_id, now
from innkeeper.services.audit import Audit
from innkeeper.services.balances import Balances
from innkeeper.services.prices import Prices
from innkeeper.services.rating import Rating
from innkeeper.wiring.openings import Store
from innkeeper.wiring.price_files import PriceFile


def open_audit(store: Store) -> Audit:
    """What words entries of the audit log, over an open store."""
    return Audit(journal=store.journal, now=now, new_id=new_id)


def open_balances(store: Store, on_change: Callable[[], None] = lambda: None) -> Balances:
    """Balances over an open store; `on_change` hears of each change that is made through them."""
    return Balances(
        journal=store.journal,
        credits=store.credits,
        audit=open_audit(store),
        now=now,
        new_id=new_id,
        on_change=on_change,
    )


def open_price_file(settings: Settings, prices: Prices) -> PriceFile | None:
    """What keeps `prices` as the file of the settings says, which has been read; none where none is named.

    Raises: SetupError.
    """
    if settings.model_prices is None:
        return None
    file = PriceFile(settings.model_prices.expanduser(), prices)
    file.load()
    return file


def open_rating(settings: Settings, store: Store) -> Rating:
    """Rating by the prices of the settings, over an open store.

    Raises: SetupError where there are no prices.
    """
    prices = Prices()
    if open_price_file(settings, prices) is None:
        raise SetupError("There are no prices: name their file with MODEL_PRICES, or pricing.models_file in --config.")
    return Rating(journal=store.journal, credits=store.credits, audit=open_audit(store), cost=prices.cost)
