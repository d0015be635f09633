"""Wiring: the composition root. It alone names concrete adapters, and gives every part what it needs."""

from innkeeper.wiring.accounting import open_balances, open_rating
from innkeeper.wiring.assembly import Started, runtime_settings, token_parts
from innkeeper.wiring.chat_logging import open_erasures
from innkeeper.wiring.kernels import Kernel, bounds_of, kernels
from innkeeper.wiring.openings import (
    Store,
    keeps_tokens_in_redis,
    open_bus,
    open_sandbox,
    open_span_sink,
    open_store,
    store_label,
)

__all__ = [
    "Kernel",
    "Started",
    "Store",
    "bounds_of",
    "keeps_tokens_in_redis",
    "kernels",
    "open_balances",
    "open_bus",
    "open_erasures",
    "open_rating",
    "open_sandbox",
    "open_span_sink",
    "open_store",
    "runtime_settings",
    "store_label",
    "token_parts",
]
