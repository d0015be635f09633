"""Wake-ups between the processes that serve one store."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

Receive = Callable[[Collection[str]], None]
"""Called on the event loop with the topics that were published meanwhile."""


class Bus(Protocol):
    """Tells other processes that there is something to look at; what it is, they read from the store.

    - `publish` never waits and never fails. What is published in one turn of the loop goes out together, each
      topic once. Before `open` and after `close` it does nothing.
    - A topic reaches every other process whose bus is open; whether it reaches its publisher is left open.
    - A topic may be lost, when a connection is: whoever waits for one also looks now and then by itself. A
      connection that was lost is made again, and `receive` is then called with no topics at all, which means
      "anything may have happened".
    - A topic is at most 200 characters of printable ASCII without spaces and commas.
    - `open` raises SetupError when what it connects to cannot be reached; `close` is idempotent.
    - `is_connected` says whether what is published now goes out at once, as far as the bus knows.
    """

    @property
    def is_connected(self) -> bool: ...

    async def open(self, receive: Receive) -> None: ...

    def publish(self, topic: str) -> None: ...

    async def close(self) -> None: ...
