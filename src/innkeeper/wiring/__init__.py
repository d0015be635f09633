"""Wiring: the composition root. It alone names concrete adapters, and gives every part what it needs.

Its names are loaded when they are asked for: a tool that only opens a store does not load what serves.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from innkeeper.wiring.accounting import open_balances, open_rating
    from innkeeper.wiring.assembly import Started, runtime_settings
    from innkeeper.wiring.chat_logging import open_erasures
    from innkeeper.wiring.kernels import Kernel, bounds_of
    from innkeeper.wiring.openings import (
        Store,
        keeps_tokens_in_redis,
        open_bus,
        open_sandbox,
        open_span_sink,
        open_store,
        store_label,
    )
    from innkeeper.wiring.tokens import token_parts

__all__ = [
    "Kernel",
    "Started",
    "Store",
    "bounds_of",
    "keeps_tokens_in_redis",
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

_MODULES = {
    "accounting": ("open_balances", "open_rating"),
    "assembly": ("Started", "runtime_settings"),
    "chat_logging": ("open_erasures",),
    "kernels": ("Kernel", "bounds_of"),
    "openings": (
        "Store",
        "keeps_tokens_in_redis",
        "open_bus",
        "open_sandbox",
        "open_span_sink",
        "open_store",
        "store_label",
    ),
    "tokens": ("token_parts",),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
