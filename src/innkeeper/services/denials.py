"""Denials: requests for an administrator's powers that were refused, as entries of the audit log.

Each is written before it is answered, until one caller, or one address of nobody's, has been refused `EACH` times
within a minute, or nobody's addresses together `STRANGERS` times: what follows is counted, and told in one entry at the
end of that minute, so that a flood fills no store. A kill within the minute loses that count, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from innkeeper.core.administration import WriteAudit
from innkeeper.core.errors import StorageUnavailable
from innkeeper.core.identity import Owner
from innkeeper.services.audit import Audit
from innkeeper.services.rates import network_of

_logger = logging.getLogger(__name__)

EACH = 20
STRANGERS = 600
SECONDS = 60.0
NOBODY = Owner("", "")
"""Who is refused without a credential that is anybody's."""

_OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Denial:
    """A request that was refused; `route` is its template, so that it holds nothing that the client chose."""

    actor: Owner
    permission: str
    method: str
    route: str
    address: str
    status: int
    reason: str


class Denials:
    """Belongs to one event loop. `clock` counts seconds and never goes back."""

    def __init__(
        self,
        *,
        audit: Audit,
        clock: Callable[[], float] = time.monotonic,
        each: int = EACH,
        strangers: int = STRANGERS,
        seconds: float = SECONDS,
    ) -> None:
        self._audit = audit
        self._clock = clock
        self._each = each
        self._strangers = strangers
        self._seconds = seconds
        self._until = 0.0
        self._written: dict[Hashable, int] = {}
        self._of_strangers = 0
        self._held: dict[Hashable, tuple[Denial, int]] = {}
        self._telling: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def tell(self, denial: Denial) -> None:
        """Write the denial, or count it among those that are told together.

        Raises: StorageUnavailable where it cannot be written; then it may not be answered as a denial.
        """
        if self._clock() >= self._until:
            self._until = self._clock() + self._seconds
            self._written.clear()
            self._of_strangers = 0
        whose = _whose(denial)
        is_stranger = denial.actor == NOBODY
        if self._written.get(whose, 0) >= self._each:
            self._hold(whose, denial)
        elif is_stranger and self._of_strangers >= self._strangers:
            self._hold(_OTHERS, denial)
        else:
            self._written[whose] = self._written.get(whose, 0) + 1
            self._of_strangers += is_stranger
            await self._audit.write(self._entry(denial))

    def _hold(self, whose: Hashable, denial: Denial) -> None:
        _, count = self._held.get(whose, (denial, 0))
        self._held[whose] = denial, count + 1
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell_later())

    async def _tell_later(self) -> None:
        is_last = False
        while self._held and not is_last:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self._until - self._clock(), 0.01)):
                    await self._closing.wait()
            is_last = self._closing.is_set()
            await self._tell_held()

    async def _tell_held(self) -> None:
        """What cannot be written now is told with what follows."""
        held, self._held = self._held, {}
        while held:
            whose, (denial, count) = held.popitem()
            try:
                await self._audit.write(self._entry(denial, count))
            except StorageUnavailable as error:
                self._until = max(self._until, self._clock() + min(self._seconds, 1.0))
                _logger.warning("%d denials could not be stored yet: %s", count, error.message)
                held[whose] = denial, count
                break
        for whose, (denial, count) in held.items():
            self._held[whose] = denial, self._held.get(whose, (denial, 0))[1] + count

    def _entry(self, denial: Denial, count: int | None = None) -> WriteAudit:
        told: dict[str, object] = {
            "permission": denial.permission,
            "method": denial.method,
            "route": denial.route,
            "address": denial.address,
            "status": denial.status,
            "reason": denial.reason,
        }
        if count is not None:
            told |= {"count": count, "seconds": self._seconds}
        return self._audit.entry(denial.actor, "access.denied", "route", f"{denial.method} {denial.route}", told)

    async def close(self) -> None:
        """Tell what is held, unless the store is away; it closes next."""
        self._closing.set()
        if self._telling is not None:
            await self._telling  # a cancellation would lose what is being written


def _whose(denial: Denial) -> Hashable:
    """Whom denials are counted by: a known caller, else an address, which of version 6 is its network."""
    return denial.actor if denial.actor != NOBODY else network_of(denial.address)
