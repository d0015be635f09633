"""Denials: each is told before it is answered, and a flood of them in a few entries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from innkeeper.core.administration import WriteAudit
from innkeeper.core.audit import AuditEntry
from innkeeper.core.errors import StorageUnavailable
from innkeeper.core.identity import Owner
from innkeeper.services.audit import Audit
from innkeeper.services.denials import NOBODY, Denial, Denials
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import ANN, BOB, new_id, now

DENIED = Denial(NOBODY, "platform:admin", "GET", "/api/v1/platform/stats", "203.0.113.7", 401, "No.")


@dataclass
class Clock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Bench:
    """Denials over a store, by a clock that the test moves."""

    store: SqliteStore
    clock: Clock
    denials: Denials

    async def entries(self) -> list[AuditEntry]:
        return [entry for entry, _ in await self.store.audit.chain(0, 1000)]

    async def counts(self) -> list[object]:
        return [entry.metadata.get("count") for entry in await self.entries()]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    store, clock = SqliteStore(tmp_path / "innkeeper.db"), Clock()
    await store.open()
    audit = Audit(journal=store.journal, now=now, new_id=new_id)
    bench = Bench(store, clock, Denials(audit=audit, clock=clock, each=3, strangers=6))
    yield bench
    await bench.denials.close()
    await store.close()


async def test_a_denial_is_on_disk_when_it_is_told(bench: Bench) -> None:
    await bench.denials.tell(DENIED)
    (entry,) = await bench.entries()
    assert (entry.action, entry.actor, entry.resource) == ("access.denied", NOBODY, "route")
    assert entry.resource_id == "GET /api/v1/platform/stats"
    assert entry.metadata["address"] == "203.0.113.7"
    assert "count" not in entry.metadata


async def test_what_follows_on_the_first_few_is_told_in_one_entry_at_the_end(bench: Bench) -> None:
    for _ in range(10):
        await bench.denials.tell(DENIED)
    assert await bench.counts() == [None] * 3
    await bench.denials.close()
    assert await bench.counts() == [None, None, None, 7]


async def test_each_caller_is_counted_by_itself_wherever_it_asks_from(bench: Bench) -> None:
    for address in range(5):
        for caller in (ANN, BOB):
            await bench.denials.tell(replace(DENIED, actor=caller.owner, address=f"198.51.100.{address}"))
    assert [entry.actor for entry in await bench.entries()] == [ANN.owner, BOB.owner] * 3
    await bench.denials.close()
    told = {entry.actor: entry.metadata["count"] for entry in (await bench.entries())[6:]}
    assert told == {ANN.owner: 2, BOB.owner: 2}


async def test_addresses_of_one_network_of_version_6_are_one(bench: Bench) -> None:
    for host in range(5):
        await bench.denials.tell(replace(DENIED, address=f"2001:db8::{host:x}"))
        await bench.denials.tell(replace(DENIED, address="2001:db8:0:1::1"))
    assert len(await bench.entries()) == 6


async def test_addresses_of_version_4_are_apart_however_they_are_written(bench: Bench) -> None:
    for host in range(2):
        for _ in range(3):
            await bench.denials.tell(replace(DENIED, address=f"::ffff:198.51.100.{host}"))
    assert len(await bench.entries()) == 6


async def test_strangers_from_everywhere_are_bounded_together_and_callers_are_not_among_them(bench: Bench) -> None:
    for host in range(50):
        await bench.denials.tell(replace(DENIED, address=f"198.51.100.{host}"))
    assert len(await bench.entries()) == 6
    await bench.denials.tell(replace(DENIED, actor=ANN.owner))
    assert (await bench.entries())[6].actor == ANN.owner
    await bench.denials.close()
    assert (await bench.counts())[7:] == [44]


async def test_after_a_minute_each_is_told_again(bench: Bench) -> None:
    for _ in range(2):
        for _ in range(3):
            await bench.denials.tell(DENIED)
        bench.clock.seconds += 60
    assert await bench.counts() == [None] * 6


async def test_the_end_of_the_minute_tells_by_itself(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "innkeeper.db")
    await store.open()
    denials = Denials(audit=Audit(journal=store.journal, now=now, new_id=new_id), each=1, seconds=1)
    for _ in range(4):
        await denials.tell(DENIED)
    async with asyncio.timeout(30):
        while (await store.audit.head())[0] < 2:
            await asyncio.sleep(0.005)
    assert [entry.metadata.get("count") for entry, _ in await store.audit.chain(0, 9)] == [None, 3]
    await denials.close()
    await store.close()


class Reluctant(Audit):
    """Refuses to write as long as it is told to."""

    is_away = True

    async def write(self, entry: WriteAudit) -> None:
        if self.is_away:
            raise StorageUnavailable("The store did not answer in time.")
        await super().write(entry)


async def test_what_cannot_be_written_is_told_later_with_what_follows(bench: Bench) -> None:
    audit = Reluctant(journal=bench.store.journal, now=now, new_id=new_id)
    denials = Denials(audit=audit, clock=bench.clock, each=1, seconds=0.02)
    with pytest.raises(StorageUnavailable):
        await denials.tell(DENIED)
    await denials.tell(DENIED)
    await denials.tell(DENIED)
    await denials._tell_held()
    await denials.tell(DENIED)
    audit.is_away = False
    await denials.close()
    assert await bench.counts() == [3]


class Slow(Audit):
    """Says that it has begun to write what it was told late, and writes it once it is let."""

    has_begun: asyncio.Event
    may_end: asyncio.Event

    async def write(self, entry: WriteAudit) -> None:
        if "count" in entry.entry.metadata:
            self.has_begun.set()
            await self.may_end.wait()
        await super().write(entry)


async def test_what_is_being_told_when_the_server_stops_is_told(bench: Bench) -> None:
    audit = Slow(journal=bench.store.journal, now=now, new_id=new_id)
    audit.has_begun, audit.may_end = asyncio.Event(), asyncio.Event()
    denials = Denials(audit=audit, each=1, seconds=0.02)
    for denial in (DENIED, replace(DENIED, actor=ANN.owner)):
        for _ in range(3):
            await denials.tell(denial)
    await audit.has_begun.wait()
    closing = asyncio.create_task(denials.close())
    await asyncio.sleep(0)
    audit.may_end.set()
    await closing
    assert sorted(filter(None, await bench.counts()), key=str) == [2, 2]


def test_nobody_is_no_callers_name() -> None:
    assert Owner("", "") == NOBODY
