"""A book of deliveries: a journal in memory that knows their two changes only, and a clock that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from innkeeper.core.changes import Change, Fence, SettleDelivery, TakeDeliveries
from innkeeper.core.errors import StorageUnavailable
from innkeeper.core.outcomes import Done, Missing, Outcome, TakenDeliveries
from innkeeper.core.runs import Run
from innkeeper.core.times import Instant
from innkeeper.core.webhooks import HOLD, Delivery


@dataclass
class Clock:
    """Microseconds; it stands still until it is moved."""

    now: int = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000)


@dataclass
class Row:
    run: Run
    url: str
    due: int | None
    attempt: int = 0
    held_until: int = 0
    is_delivered: bool = False


class Book:
    """What a store keeps of deliveries. `settled` gets every `SettleDelivery`; `is_away` fails every commit."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rows: dict[str, Row] = {}
        self.settled: asyncio.Queue[SettleDelivery] = asyncio.Queue()
        self.takings = 0
        self.refused = asyncio.Event()
        self.is_away = False

    def add(self, delivery_id: str, run: Run, url: str) -> None:
        self.rows[delivery_id] = Row(run, url, self.clock.now)

    async def next_settled(self) -> SettleDelivery:
        async with asyncio.timeout(10):
            return await self.settled.get()

    def commit(self, changes: Sequence[Change], fence: Fence | None = None) -> asyncio.Future[tuple[Outcome, ...]]:
        future: asyncio.Future[tuple[Outcome, ...]] = asyncio.get_running_loop().create_future()
        if self.is_away:
            self.refused.set()
            future.set_exception(StorageUnavailable("The store is away."))
        else:
            future.set_result(tuple(map(self._apply, changes)))
        return future

    def _apply(self, change: Change) -> Outcome:
        if isinstance(change, TakeDeliveries):
            return self._take(change)
        assert isinstance(change, SettleDelivery)
        row = self.rows.get(change.id)
        if row is None:
            return Missing()
        row.is_delivered |= change.is_delivered
        row.due = None if row.is_delivered else change.retry_at
        row.held_until = 0
        self.settled.put_nowait(change)
        return Done()

    def _take(self, change: TakeDeliveries) -> TakenDeliveries:
        self.takings += 1
        taken: list[Delivery] = []
        for delivery_id, row in self.rows.items():
            is_due = row.due is not None and row.due <= change.now and row.held_until <= change.now
            if is_due and len(taken) < change.limit:
                row.attempt, row.held_until = row.attempt + 1, Instant(change.now + HOLD)
                taken.append(Delivery(delivery_id, row.run, row.url, row.attempt))
        return TakenDeliveries(tuple(taken))
