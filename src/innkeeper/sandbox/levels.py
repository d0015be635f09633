"""Levels: how deep a call stands that a host function of another call makes.

The outer call keeps its place while it waits, so each level has places of its own; otherwise calls that fill a sandbox
would wait for each other until their time is over.
"""

from __future__ import annotations

from contextvars import ContextVar

from innkeeper.ports.sandbox import CodeFailed

LEVELS = 4

_level = ContextVar("level", default=0)


def places(calls: int) -> list[int]:
    """For each level, how many calls may run at a time."""
    return [calls] + [1] * (LEVELS - 1)


def current() -> int:
    """The level of a call that begins here. Raises CodeFailed where there are no more."""
    if _level.get() >= LEVELS:
        raise CodeFailed("Code calls code too deeply.")
    return _level.get()


def descend() -> None:
    """What this task calls from now on stands one level deeper. For a host function's own task."""
    _level.set(_level.get() + 1)
