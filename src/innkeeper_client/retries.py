"""Retries: which failures are worth another attempt, and when."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from innkeeper_client.exceptions import APIConnectionError, ChatServerError

MAX_BACKOFF = 8.0
LONGEST_WAIT = 120.0
"""Seconds; a server that asks for more patience than this is not tried again."""
LASTING = 10
"""Attempts, over about 50 seconds: as long as a server takes to end what runs and to start anew."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How requests are tried again, and, as `lasting`, streams that had been open: a server that restarts comes back.

    At most `most` more attempts, the first `backoff` seconds after a failure, each later one twice as long.
    """

    most: int
    backoff: float

    def delay(self, error: ChatServerError, tried: int) -> float | None:
        """Seconds to wait after `tried` failed attempts more than the first; `None` if the error stands."""
        if tried >= self.most or not _is_passing(error):
            return None
        asked = error.retry_after
        if asked is not None:
            return asked if asked <= LONGEST_WAIT else None
        pause = min(self.backoff * 2.0 ** min(tried, 16), MAX_BACKOFF)
        return pause * (1 - os.urandom(1)[0] / 1024)  # so that clients do not come back all at once

    @property
    def lasting(self) -> Retries:
        return replace(self, most=max(self.most, LASTING)) if self.most else self

    def longest(self, timeout: float) -> float:
        """Seconds that all attempts after the first may take, where each of them takes `timeout`."""
        return self.most * (timeout + MAX_BACKOFF)


def _is_passing(error: ChatServerError) -> bool:
    told = error.headers.get("x-should-retry")
    if told in ("true", "false"):
        return told == "true"
    status = error.status_code
    return isinstance(error, APIConnectionError) or status in (408, 429) or (status is not None and status >= 500)
