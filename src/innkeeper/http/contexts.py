"""Request state: the run's context as hooks and agents of the HTTP surfaces know it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from uuid_utils import uuid7

from innkeeper.core.context import RunContext


def new_id() -> str:
    """A time-ordered id: 32 hexadecimal digits of a UUIDv7."""
    return uuid7().hex


def now() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class RequestState(RunContext):
    """State of one request: `set`, `get`, `track_usage`, `usage`, `get_duration`, and the names of its run."""

    def __init__(self, request: Any = None, variables: Mapping[str, str] | None = None) -> None:
        super().__init__(request, clock=time.perf_counter, new_id=new_id, now=now, variables=variables)
