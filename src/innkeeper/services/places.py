"""Places: how much of one kind may be under way at a time, in all and of one owner; whoever comes beyond is refused.

They are counted in this process. The local user may take all of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from innkeeper.core.errors import RateLimited, TooBusy
from innkeeper.core.identity import LOCAL_OWNER, Owner

_LOOK_SECONDS = 0.02


class Places:
    """`most` in all, `of_one` of one owner; `what` they are is named to whoever finds none."""

    def __init__(self, most: int, of_one: int, what: str) -> None:
        self._most = most
        self._of_one = of_one
        self._what = what
        self._taken: Counter[Owner] = Counter()

    @contextmanager
    def taken(self, owner: Owner) -> Iterator[None]:
        """One of them while this lasts. Raises: TooBusy, RateLimited."""
        if self._taken.total() >= self._most:
            raise TooBusy(f"{self._most} {self._what} are under way or wait already. Try again later.")
        if self._taken[owner] >= self._of_one and owner != LOCAL_OWNER:
            raise RateLimited(
                f"{self._of_one} {self._what} of this user are under way or wait already. Try again later."
            )
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]

    async def emptied(self, patience: float) -> None:
        """Return once none is taken, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._taken:  # noqa: ASYNC110 - it happens once, when the server ends
                    await asyncio.sleep(_LOOK_SECONDS)
