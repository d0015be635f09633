"""Two servers on one PostgreSQL that do everything at once in the same sessions: no error is seen, nothing breaks."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import asyncpg
import pytest

from innkeeper.core.changes import (
    AppendMessages,
    DeleteSession,
    DeliverInjections,
    Fence,
    KeepWorker,
    ReleaseRun,
    RequestCancel,
    TakeDead,
)
from innkeeper.core.claims import Claim
from innkeeper.core.outcomes import Accepted, Begun, Delivered, Ended, Inherited, Injected
from innkeeper.core.times import Instant
from innkeeper.storage.postgres.stores import PostgresStore
from tests.support.turns import (
    ANN,
    accept,
    accepted_by,
    begin,
    create,
    end,
    events,
    inject,
    log_of,
    now,
    session_called,
    taken_by,
    user,
)

SECONDS = 3.0
SESSIONS = ("s0", "s1", "s2")


@pytest.fixture
async def stores(migrated_database: str) -> AsyncIterator[list[PostgresStore]]:
    async with AsyncExitStack() as stack:
        opened = [PostgresStore(migrated_database) for _ in range(2)]
        for store in opened:
            await store.open()
            stack.push_async_callback(store.close)
        yield opened


@dataclass
class Crowd:
    """What is done, and what of it was acknowledged."""

    stores: list[PostgresStore]
    dice: random.Random
    injected: set[str] = field(default_factory=set)
    appended: int = 0
    done: Counter[str] = field(default_factory=Counter)
    deadline: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    async def repeat(self, act: str, index: int) -> None:
        while time.monotonic() < self.deadline:
            await getattr(self, act)(self.stores[index % 2], f"w-{index % 2}")
            self.done[act] += 1

    async def converse(self, store: PostgresStore, worker: str) -> None:
        """A turn, from its accept to its end; it is given up where another took its run over."""
        name = self.dice.choice(SESSIONS)
        change = accept("q", name, worker=worker, max_queue=100_000, when_busy=self.dice.choice(("queue", "interrupt")))
        placed = await accepted_by(store, change)
        epoch = placed.epoch
        if placed.run.status == "queued":
            while time.monotonic() < self.deadline:
                (outcome,) = await store.journal.commit((begin(change, placed),))
                if isinstance(outcome, Begun):
                    epoch = outcome.epoch
                    break
                await asyncio.sleep(0.01)
        await self._execute(store, placed, Fence(placed.run.id, "worker-1" if epoch > 1 else worker, epoch))

    async def work(self, store: PostgresStore, worker: str) -> None:
        """Queue a run and take one, whoever's it is; now and then it is left to others."""
        await accepted_by(store, accept("q", self.dice.choice(SESSIONS), background=True, max_queue=100_000))
        taken = await taken_by(store, worker)
        if taken is None:
            return
        held = Fence(taken.run.id, worker, taken.epoch)
        if self.dice.random() < 0.2:
            await store.journal.commit((ReleaseRun(taken.run.id),), held)
        else:
            await self._execute(store, taken, held)

    async def _execute(self, store: PostgresStore, placed: Accepted, held: Fence) -> None:
        found = await store.runs.find(ANN, placed.run.id)
        if found is None:
            return
        seq = found.last_seq
        await store.journal.commit((events(seq + 1, b"x"),), held)
        (told,) = await store.journal.commit((DeliverInjections(seq + 1, now()),), held)
        seq += 1 + (len(told.messages) if isinstance(told, Delivered) else 0)
        (outcome,) = await store.journal.commit((end(placed, "a", seq=seq + 1),), held)
        self.done["ended"] += isinstance(outcome, Ended)

    async def steer(self, store: PostgresStore, _: str) -> None:
        runs, _more = await store.runs.page(ANN, limit=3)
        named = self.dice.choice([{}, *({"run_id": run.id} for run in runs)])
        change = inject("x", **named, claim=Claim(f"key-{self.dice.random()}", "x"))  # type: ignore[arg-type]
        (outcome,) = await store.journal.commit((change,))
        if isinstance(outcome, Injected):
            self.injected.add(change.id)

    async def cancel(self, store: PostgresStore, worker: str) -> None:
        runs, _more = await store.runs.page(ANN, limit=5)
        for run in runs:
            await store.journal.commit((RequestCancel(run.id, ANN.owner, worker, Instant(1)),))

    async def append(self, store: PostgresStore, _: str) -> None:
        key = (await session_called(store, self.dice.choice(SESSIONS))).key
        await store.journal.commit((AppendMessages(key, (user("appended"),), now()),))
        self.appended += 1

    async def inherit(self, store: PostgresStore, worker: str) -> None:
        """Take over from workers that never say that they are alive, and end what is not queued again."""
        await store.journal.commit((KeepWorker(f"heir-{worker}", worker),))
        (outcome,) = await store.journal.commit((TakeDead(f"heir-{worker}", max_attempts=3, limit=5),))
        assert isinstance(outcome, Inherited)
        for run, held in outcome.runs:
            change = end(Accepted(run, None), (), status="interrupted", seq=run.last_seq + 1)
            await store.journal.commit((change,), held)
        await asyncio.sleep(0.02)

    async def forget(self, store: PostgresStore, _: str) -> None:
        """Make sessions, use them, and delete them while they are used."""
        name = f"short-{self.dice.randrange(2)}"
        accepted = await accepted_by(store, accept("q", name, background=True, max_queue=100_000))
        await store.journal.commit((inject("x", session_key=accepted.run.session_key),))
        await asyncio.gather(
            store.journal.commit((DeleteSession(accepted.run.session_key),)),
            self.stores[0].journal.commit((inject("x", run_id=accepted.run.id),)),
            self.work(store, "w-1"),
        )


ACTS = ("converse",) * 4 + ("work",) * 4 + ("steer",) * 2 + ("cancel", "append", "inherit", "forget")


async def test_two_servers_that_do_everything_at_once_in_the_same_sessions_break_nothing(
    stores: list[PostgresStore], migrated_database: str
) -> None:
    crowd = Crowd(stores, random.Random(20))
    for name in SESSIONS:
        await stores[0].journal.commit((create(name),))
    await asyncio.gather(*(crowd.repeat(act, index) for index, act in enumerate(ACTS)))
    assert crowd.done.keys() == {*ACTS, "ended"}, crowd.done
    await _end_all(stores[0])
    await _check(stores[0], crowd)
    connection = await asyncpg.connect(migrated_database)
    deadlocks = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    await connection.close()
    print(dict(crowd.done), f"deadlocks: {deadlocks}")


async def _end_all(store: PostgresStore) -> None:
    while (runs := await store.runs.page(ANN, limit=100))[0] and any(run.ended_at is None for run in runs[0]):
        if await taken_by(store, "w-0") is None:
            (outcome,) = await store.journal.commit((TakeDead("last", max_attempts=1, patience=0.0),))
            assert isinstance(outcome, Inherited)
            for run, held in outcome.runs:
                change = end(Accepted(run, None), (), status="interrupted", seq=run.last_seq + 1)
                assert isinstance((await store.journal.commit((change,), held))[0], Ended)


async def _check(store: PostgresStore, crowd: Crowd) -> None:
    appended = 0
    for name in SESSIONS:
        session = await session_called(store, name)
        stored = await store.sessions.messages(session)
        assert [one.position for one in stored] == list(range(1, len(stored) + 1))
        assert session.message_count == len(stored)
        appended += sum(one.message.text == "appended" for one in stored)
        runs, _ = await store.runs.page(ANN, limit=10_000, session_key=session.key)
        assert sorted(run.turn for run in runs) == list(range(1, len(runs) + 1))
        for run in runs[:20]:
            assert len(await log_of(store, run.id)) == run.last_seq
    assert appended == crowd.appended
    for injection_id in crowd.injected:
        receipt = await store.injections.find(ANN, injection_id)
        if receipt is not None:  # else it went with a session that was deleted
            assert receipt.status in ("delivered", "deferred")
            assert (receipt.status == "delivered") == (receipt.run_id is not None) == (receipt.seq is not None)
