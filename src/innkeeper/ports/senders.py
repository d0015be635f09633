"""What carries a webhook to its receiver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Sender(Protocol):
    """POSTs a body to a URL that the operator allows.

    - `check` raises Invalid, naming what is wrong, for a URL that is not allowed.
    - `send` returns once the receiver has answered with 2xx, and raises `DeliveryFailed` in every other case, also
      for a redirect, which is never followed, and for a URL that is not allowed (any more).
    """

    def check(self, url: str) -> None: ...

    async def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> None: ...

    async def close(self) -> None: ...


class DeliveryFailed(Exception):
    """The receiver did not take it; the text says why, for the log."""
