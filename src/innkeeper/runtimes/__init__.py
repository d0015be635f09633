"""Adapters from agent frameworks to `ports.agents.Runtime`. Frameworks are imported only when an agent needs them."""

from __future__ import annotations

import sys
import threading

_holds: set[Hold] = set()


class Hold:
    """An app under way: with the last one of the process ends what runtimes have started outside of it.

    Those are the children that run local models, which the apps of a process share.
    """

    def __init__(self) -> None:
        _holds.add(self)

    def release(self) -> None:
        """The app has ended. Idempotent; takes milliseconds, at most seconds."""
        if self in _holds:
            _holds.discard(self)
            if not _holds:
                _end_children()

    def release_elsewhere(self) -> None:
        """The same without waiting, for the garbage collector, which may come while any lock is held."""
        threading.Thread(target=self.release, daemon=True).start()


def _end_children() -> None:
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
