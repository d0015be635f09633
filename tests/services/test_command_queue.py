"""The command queue, where the store goes away in the midst of what it does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from innkeeper.core.changes import Change, Fence
from innkeeper.core.commands import Command, CommandStatus
from innkeeper.core.control_changes import AcceptCommands, EndCommand
from innkeeper.core.errors import StorageUnavailable
from innkeeper.core.outcomes import Outcome
from innkeeper.ports.journal import Journal
from innkeeper.ports.meters import UNMETERED
from innkeeper.services import command_queue
from innkeeper.services.command_queue import CommandQueue
from innkeeper.services.handling import Handling
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import kept_session, new_id, now


class WithoutEnds:
    """A store's journal that does not answer where a command is to be ended."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.was_asked = asyncio.Event()

    def commit(self, changes: Sequence[Change], fence: Fence | None = None) -> asyncio.Future[tuple[Outcome, ...]]:
        if not isinstance(changes[0], EndCommand):
            return self._journal.commit(changes, fence)
        self.was_asked.set()
        failed: asyncio.Future[tuple[Outcome, ...]] = asyncio.get_running_loop().create_future()
        failed.set_exception(StorageUnavailable("The store does not answer."))
        return failed


async def test_a_queue_that_takes_over_from_the_dead_ends_though_the_store_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_queue, "_LOOK_SECONDS", 0.01)
    store = SqliteStore(tmp_path / "a.db")
    await store.open()
    journal = WithoutEnds(store.journal)
    queue = CommandQueue(
        journal=journal,
        commands=store.commands,
        handling=cast("Handling", None),  # nobody is asked about a command that was begun so often
        meter=UNMETERED,
        now=now,
        worker="heir",
        limit=4,
        shows_errors=False,
        on_growth=lambda _: None,
        on_work=lambda: None,
    )
    await queue.open()
    session = await kept_session(store)
    left = Command(
        f"cmd_{new_id()}", session.owner, session.user_id, session.key, session.id, "Greet", now(),
        status=CommandStatus.EXECUTING, attempt=10, started_at=now(),
    )  # fmt: skip
    await store.journal.commit((AcceptCommands(session.key, (left,), "dead", now()),))
    async with asyncio.timeout(10):
        await journal.was_asked.wait()
        await queue.drain(0)
    await store.close()
