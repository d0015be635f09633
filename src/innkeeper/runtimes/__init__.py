"""Adapters from agent frameworks to `ports.agents.Runtime`. Frameworks are imported only when an agent needs them."""

from __future__ import annotations

import sys


def shutdown() -> None:
    """Stop what runtimes have started outside of this process: the children that run local models."""
    local = sys.modules.get("innkeeper.runtimes.local")
    if local is not None:
        local.shutdown()


async def close() -> None:
    """End the programs that runtimes keep on this event loop, and leave their folders."""
    programs = sys.modules.get("innkeeper.runtimes.programs_runtime")
    if programs is not None:
        await programs.close()


def session_deleted(session_key: str) -> None:
    """End what runtimes have kept for a session which is gone."""
    programs = sys.modules.get("innkeeper.runtimes.programs_runtime")
    if programs is not None:
        programs.forget(session_key)
