"""Effects: what the rest of this package asks of the network and the clock, as values.

A program is a generator that yields effects and is sent what came of them, or is thrown the `APIConnectionError` that
did. `blocking` and `awaiting` carry effects out; nothing else does I/O, and so nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """An HTTP request, ready to be sent. `timeout` is between two signs of life, `None` for ever."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None
    timeout: float | None

    def within(self, seconds: float) -> Call:
        """The same with no more patience than this."""
        return replace(self, timeout=seconds if self.timeout is None else min(seconds, self.timeout))


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. `source` is where a stream's body is to be read, and `content` is then empty."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    source: Any = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send a request and read its answer: `Answer`."""

    call: Call


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request whose answer may be a stream: `Answer`, with a `source` if it is one."""

    call: Call


@dataclass(frozen=True, slots=True)
class Read:
    """The next bytes of a stream, empty at its end."""

    source: Any


@dataclass(frozen=True, slots=True)
class Close:
    """Let a stream go."""

    source: Any


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """Not for the network: what a stream gives to whoever iterates over it."""

    value: T


Effect = Exchange | Open | Read | Close | Sleep
Program = Generator[Effect, Any, T]
"""Comes to a `T`."""
Items = Generator[Effect | Item[T], Any, None]
"""Gives any number of `T` on the way."""
