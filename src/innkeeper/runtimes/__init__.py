"""Adapters from agent frameworks to `ports.agents.Runtime`. Frameworks are imported only when an agent needs them."""

from __future__ import annotations

import sys


def shutdown() -> None:
    """Stop what runtimes have started outside of this process: the children that run local models."""
    local = sys.modules.get("innkeeper.runtimes.local")
    if local is not None:
        local.shutdown()
