"""Wiring: the composition root. It alone names concrete adapters, and gives every part what it needs."""

from innkeeper.wiring.assembly import Started, runtime_settings, token_parts
from innkeeper.wiring.kernels import Kernel, kernels
from innkeeper.wiring.openings import Store, open_bus, open_sandbox, open_span_sink, open_store, store_label

__all__ = [
    "Kernel",
    "Started",
    "Store",
    "kernels",
    "open_bus",
    "open_sandbox",
    "open_span_sink",
    "open_store",
    "runtime_settings",
    "store_label",
    "token_parts",
]
