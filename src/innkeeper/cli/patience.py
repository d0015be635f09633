"""Patience: for how long a client may owe what its connection waits for.

A connection is looked at a few times within any time that is allowed, instead of having timers of its own, which would
cost each request more than the request is worth. `Rounds` looks; `cli.connections` and `cli.frames` know what is owed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any

from innkeeper.http.bounds import Bounds

LEAST_RATE = 1024
"""Bytes a second that whoever sends, or takes, must keep to in the long run, once the time of one gap is over."""

MOST_WAITING = 256 * 1024
"""Bytes that may wait for a client that takes nothing; beyond, it is given the time of a gap only."""

_BYTES_ACKED = 120  # in Linux's struct tcp_info
_LONGEST_TICK, _SHORTEST_TICK, _MOST_TICKS = 0.5, 0.02, 4


class Debt:
    """How long somebody has owed something already."""

    __slots__ = ("_first", "_gap", "_key", "_moved", "_whole")

    def __init__(self) -> None:
        self._key: object = None
        self._first = self._moved = 0
        self._gap = self._whole = 0.0

    def forget(self) -> None:
        """Nothing is owed now."""
        self._key = None

    def is_overdue(self, key: object, moved: int, seconds: float, limit: float) -> bool:
        """Add `seconds` to what is owed, unless `key` says that it is something new.

        `moved` is how many bytes have come of it: each gap may last `limit`, and the whole so long and what they take
        at the least rate. Two looks too early is better than one too late.
        """
        if key != self._key:
            self._key, self._first, self._moved = key, moved, moved
            self._gap = self._whole = 0.0
            return False
        self._gap = 0.0 if moved != self._moved else self._gap + seconds
        self._whole += seconds
        self._moved = moved
        allowed = limit - 2 * seconds
        return self._gap >= allowed or self._whole >= allowed + (moved - self._first) / LEAST_RATE


class Taking:
    """Whether a client takes what is sent to it."""

    __slots__ = ("_debt", "_seen", "_taken")

    def __init__(self) -> None:
        self._debt = Debt()
        self._seen = self._taken = 0

    def has_stalled(self, transport: Any, bounds: Bounds, seconds: float) -> bool:
        """Whether something waits for it, and has for too long."""
        waiting = transport.get_write_buffer_size()
        if not waiting:
            self._debt.forget()
            self._seen = 0
            return False
        acknowledged = _acknowledged(transport)
        if acknowledged is not None:
            self._taken = acknowledged
        elif waiting < self._seen:
            self._taken += self._seen - waiting
        self._seen = waiting
        limit = bounds.stalled_seconds if waiting <= MOST_WAITING else min(bounds.slow_seconds, bounds.stalled_seconds)
        return self._debt.is_overdue(True, self._taken, seconds, limit)


def _acknowledged(transport: Any) -> int | None:
    """Bytes that the client's system has taken in all; none where this system does not tell."""
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    with contextlib.suppress(OSError, struct.error):
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
        acknowledged: int = struct.unpack_from("=Q", told, _BYTES_ACKED)[0]
        return acknowledged
    return None


def drop(transport: Any) -> None:
    """End the connection of a client that takes nothing, and have the system forget what waits for it there."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Rounds:
    """Looks at all connections of a server, again and again."""

    def __init__(self, bounds: Bounds, connections: Callable[[], Iterable[Any]]) -> None:
        shortest = min(bounds.slow_seconds, bounds.idle_seconds, bounds.stalled_seconds, bounds.handshake_seconds)
        self._tick = min(_LONGEST_TICK, max(_SHORTEST_TICK, shortest / 10))
        self._connections = connections

    async def run(self) -> None:
        """Until it is cancelled. While the loop was blocked nobody was late: their bytes may be here already."""
        loop = asyncio.get_running_loop()
        looked_at = loop.time()
        while True:
            await asyncio.sleep(self._tick)
            now = loop.time()
            elapsed = min(now - looked_at, _MOST_TICKS * self._tick)
            looked_at = now
            for connection in list(self._connections()):
                connection.look(elapsed)
