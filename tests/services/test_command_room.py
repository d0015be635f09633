"""Room in the command queue: what comes while it is looked whether others wait is begun at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from innkeeper.ports.meters import UNMETERED
from innkeeper.ports.readers import CommandReader
from innkeeper.services.command_queue import CommandQueue
from innkeeper.services.handling import Handling
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import now


class Slow:
    """A store's commands, where it takes a while to learn whether any wait."""

    def __init__(self, commands: CommandReader) -> None:
        self._commands = commands
        self.was_asked, self.gate = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._commands, name)

    async def has_queued(self) -> bool:
        self.was_asked.set()
        await self.gate.wait()
        return await self._commands.has_queued()


async def test_there_is_room_while_it_is_looked_whether_others_wait(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "innkeeper.db")
    await store.open()
    slow = Slow(store.commands)
    queue = CommandQueue(
        journal=store.journal,
        commands=cast("CommandReader", slow),
        handling=cast("Handling", None),  # nothing is executed
        meter=UNMETERED,
        now=now,
        worker="w",
        limit=4,
        shows_errors=False,
        on_growth=lambda _: None,
        on_work=lambda: None,
    )
    await queue.open()
    await slow.was_asked.wait()
    with queue.room(4) as room:
        assert room == 4
    slow.gate.set()
    await queue.drain(1)
    await store.close()
