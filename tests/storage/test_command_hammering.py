"""Two servers on one PostgreSQL that publish, ask, cancel, take and delete at once: nothing is lost or deadlocks."""

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

from innkeeper.core.changes import AppendEvents, DeleteSession, Segment
from innkeeper.core.commands import Command, CommandStatus, Hold
from innkeeper.core.control_changes import (
    AcceptCommands,
    AcceptedCommands,
    CancelCommand,
    EndCommand,
    PublishEvent,
    ReleaseCommand,
    TakeCommands,
    TakeDeadCommands,
    TakenCommands,
)
from innkeeper.core.events import ToolCalled, payload
from innkeeper.core.session_events import EventFilter, Note, note_of
from innkeeper.core.sessions import Session
from innkeeper.storage.postgres.stores import PostgresStore
from tests.support.turns import accept, accepted_by, create, end, fence, new_id, now, session_called

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
    asked: list[Command] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    deadline: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    async def repeat(self, act: str, index: int) -> None:
        while time.monotonic() < self.deadline:
            store = self.stores[index % 2]
            await getattr(self, act)(store, await session_called(store, self.dice.choice(SESSIONS)), f"w-{index % 2}")
            self.done[act] += 1

    def _commands(self, session: Session, count: int, kind: str = "command") -> tuple[Command, ...]:
        ids = [f"cmd_{new_id()}" for _ in range(count)]
        is_sequence = self.dice.random() < 0.5 and kind == "command"
        return tuple(
            Command(
                ids[index],
                session.owner,
                session.user_id,
                session.key,
                session.id,
                "Do",
                now(),
                kind="command" if kind == "command" else "reaction",
                handler="h",
                waits_for=ids[index - 1] if is_sequence and index else None,
            )
            for index in range(count)
        )

    async def ask(self, store: PostgresStore, session: Session, worker: str) -> None:
        commands = self._commands(session, self.dice.randrange(1, 4))
        (outcome,) = await store.journal.commit((AcceptCommands(session.key, commands, worker, now()),))
        assert isinstance(outcome, AcceptedCommands)
        self.asked += commands

    async def publish(self, store: PostgresStore, session: Session, worker: str) -> None:
        reactions = self._commands(session, 2, "reaction")
        await store.journal.commit((PublishEvent(session.key, Note("Said", now()), reactions, worker),))

    async def work(self, store: PostgresStore, session: Session, worker: str) -> None:
        (outcome,) = await store.journal.commit((TakeCommands(worker, now(), 8),))
        assert isinstance(outcome, TakenCommands)
        await asyncio.gather(*(self._end(store, command, hold) for command, hold in outcome.commands))

    async def _end(self, store: PostgresStore, command: Command, hold: Hold) -> None:
        if self.dice.random() < 0.1:
            await store.journal.commit((ReleaseCommand(hold),))
        elif self.dice.random() < 0.9:  # else its worker dies
            change = EndCommand(
                hold, command.session_key, CommandStatus.COMPLETED, now(), notes=(Note("Heard", now()),)
            )
            await store.journal.commit((change,))

    async def cancel(self, store: PostgresStore, session: Session, worker: str) -> None:
        if self.asked:
            await store.journal.commit((CancelCommand(self.dice.choice(self.asked).id, session.owner, now()),))
        await asyncio.sleep(0)

    async def inherit(self, store: PostgresStore, session: Session, worker: str) -> None:
        (outcome,) = await store.journal.commit((TakeDeadCommands(f"heir-{worker}", limit=20),))
        assert isinstance(outcome, TakenCommands)
        for command, hold in outcome.commands:
            await self._end(store, command, hold)
        await asyncio.sleep(0.02)

    async def run(self, store: PostgresStore, session: Session, worker: str) -> None:
        """A run tells of a tool's call, in its own log and the session's."""
        placed = await accepted_by(store, accept("q", session.id, worker=worker, max_queue=100_000))
        called = payload(ToolCalled("look", "call_1", "{}"))
        note = note_of(placed.run.id, placed.run.last_seq + 1, called, now())
        if placed.run.status == "running" and note is not None:
            seq = placed.run.last_seq + 1
            told = AppendEvents(Segment(seq, 1, called), now(), (note,), session.key)
            await store.journal.commit((told,), fence(placed, worker=worker))
            await store.journal.commit((end(placed, "a", seq=seq + 1),), fence(placed, worker=worker))
            self.done["told"] += 1

    async def forget(self, store: PostgresStore, session: Session, worker: str) -> None:
        """Make a session, use it, and delete it while it is used."""
        placed = await accepted_by(store, accept("q", f"short-{self.dice.randrange(2)}", max_queue=100_000))
        short = await session_called(store, placed.run.session_id)
        commands = self._commands(short, 3)
        await store.journal.commit((AcceptCommands(short.key, commands, worker, now()),))
        await asyncio.gather(
            store.journal.commit((DeleteSession(short.key),)),
            self.work(self.stores[0], short, "w-0"),
            self.stores[1].journal.commit((CancelCommand(commands[0].id, short.owner, now()),)),
            self.stores[1].journal.commit((PublishEvent(short.key, Note("Said", now())),)),
        )


ACTS = ("ask",) * 3 + ("publish",) * 3 + ("work",) * 4 + ("cancel", "cancel", "inherit", "run", "run", "forget")


async def test_commands_events_and_runs_in_the_same_sessions_do_not_stand_in_each_others_way(
    stores: list[PostgresStore], migrated_database: str
) -> None:
    crowd = Crowd(stores, random.Random(20))
    for name in SESSIONS:
        await stores[0].journal.commit((create(name),))
    await asyncio.gather(*(crowd.repeat(act, index) for index, act in enumerate(ACTS)))
    assert crowd.done.keys() == {*ACTS, "told"}, crowd.done
    await _end_all(stores[0], crowd)
    for name in SESSIONS:
        await _check(stores[0], await session_called(stores[0], name), crowd)
    connection = await asyncpg.connect(migrated_database)
    deadlocks = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    await connection.close()
    assert deadlocks == 0, crowd.done


async def _end_all(store: PostgresStore, crowd: Crowd) -> None:
    for take in (TakeDeadCommands("last", 100_000), TakeCommands("last", now(), 100)):
        while True:
            (outcome,) = await store.journal.commit((take,))
            assert isinstance(outcome, TakenCommands)
            for command, hold in outcome.commands:
                change = EndCommand(hold, command.session_key, CommandStatus.COMPLETED, now())
                await store.journal.commit((change,))
            if not outcome.commands:
                break


async def _check(store: PostgresStore, session: Session, crowd: Crowd) -> None:
    log = await store.events.beyond(session, 0, 1_000_000)
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    assert [event.created_at for event in log] == sorted(event.created_at for event in log)
    for event_type, count in Counter(event.event_type for event in log).items():
        assert (await store.events.page(session, EventFilter(event_type), limit=1))[1] == count
    asked = {command.id for command in crowd.asked if command.session_key == session.key}
    for event_type in ("command_accepted", "command_ended"):
        told = Counter(str(event.data["command_id"]) for event in log if event.event_type == event_type)
        assert told == Counter(asked)
