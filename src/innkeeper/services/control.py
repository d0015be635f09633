"""Control: the services behind the control plane, put together: handlers, commands, session events, clients' code.

It stands beside `runs` and shares its journal, its sessions and its wake-ups.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from innkeeper.core.errors import SessionNotFound
from innkeeper.core.handling import DummyEngineCommand, DummyEngineStatusUpdate
from innkeeper.core.identity import Caller
from innkeeper.core.sessions import Session
from innkeeper.ports.journal import Journal
from innkeeper.ports.meters import Meter
from innkeeper.ports.readers import CommandReader, EventReader, SessionReader, SourceReader
from innkeeper.ports.sandbox import Sandbox
from innkeeper.services.audit import Audit
from innkeeper.services.command_queue import CommandQueue
from innkeeper.services.commands import Commands
from innkeeper.services.handlers import Handlers
from innkeeper.services.handling import Handling, InThread, current_command
from innkeeper.services.session_log import NewEvent, SessionLog
from innkeeper.services.sessions import Sessions
from innkeeper.services.source_code import SourceCode, Where
from innkeeper.services.wakes import Wakes

IN_HAND = 64
"""Commands that one process executes at a time."""


class ControlStore(Protocol):
    """What the control plane needs of a store."""

    @property
    def journal(self) -> Journal: ...

    @property
    def sessions(self) -> SessionReader: ...

    @property
    def events(self) -> EventReader: ...

    @property
    def commands(self) -> CommandReader: ...

    @property
    def sources(self) -> SourceReader: ...


@dataclass(frozen=True, slots=True)
class Belongings:
    """What the control plane is handed beside its store. `on_growth` hears of sessions whose log has grown."""

    handlers: Handlers
    sandbox: Sandbox | None
    in_thread: InThread
    meter: Meter
    wakes: Wakes
    audit: Audit
    now: Callable[[], int]
    new_id: Callable[[], str]
    on_growth: Callable[[str], None]
    shows_errors: bool = False


class Control:
    """`commands`, `log` and `code` are the use cases."""

    def __init__(self, store: ControlStore, sessions: Sessions, has: Belongings, worker: str) -> None:
        self._sessions = store.sessions
        self._sandbox = has.sandbox
        now, new_id, on_growth = has.now, has.new_id, has.on_growth
        self.code = SourceCode(
            journal=store.journal,
            sources=store.sources,
            sandbox=has.sandbox,
            audit=has.audit,
            now=now,
            new_id=new_id,
        )
        built_in = Handlers(has.handlers)
        self.handling = Handling(built_in, self.code, has.in_thread)
        self.queue = CommandQueue(
            journal=store.journal,
            commands=store.commands,
            handling=self.handling,
            meter=has.meter,
            now=now,
            worker=worker,
            limit=IN_HAND,
            shows_errors=has.shows_errors,
            on_growth=on_growth,
            on_work=has.wakes.work_came,
        )
        self.commands = Commands(
            journal=store.journal,
            sessions=sessions,
            commands=store.commands,
            handling=self.handling,
            queue=self.queue,
            wakes=has.wakes,
            now=now,
            new_id=new_id,
            on_growth=on_growth,
        )
        self.log = SessionLog(
            journal=store.journal,
            events=store.events,
            handling=self.handling,
            queue=self.queue,
            now=now,
            new_id=new_id,
            on_growth=on_growth,
        )
        self.code.publish = self._publish
        self.code.check_free = self.handling.check_free
        built_in.add_command(DummyEngineCommand, self._dummy, is_idempotent=True)

    async def _publish(
        self, where: Where, event_type: str, data: Mapping[str, object], metadata: Mapping[str, object]
    ) -> object:
        """What code of a session publishes there."""
        session = await self._session(where)
        event, _ = await self.log.publish(session, NewEvent(event_type, data, metadata, "handler"))
        return {"event_id": event.event_id, "sequence": event.sequence}

    async def _dummy(self, command: DummyEngineCommand) -> str:
        """What the engine that works offline does for a command."""
        asked = current_command()
        assert asked is not None, "handlers are called for a command"
        where = Where(asked.owner, asked.session_key, asked.session_id)
        for status in ("processing", "finished"):
            await self._publish(where, DummyEngineStatusUpdate.__name__, {"status": status}, {"command_id": asked.id})
        return f"Dummy response to: {command.prompt}"

    async def _session(self, where: Where) -> Session:
        within = Caller(where.owner, session_key=where.session_key, session_id=where.session_id)
        session = await self._sessions.find(within, where.session_id)
        if session is None:
            raise SessionNotFound(f"Session {where.session_id!r} does not exist.", param="session_id")
        return session

    async def open_sandbox(self) -> None:
        """Before anything runs. Raises: SetupError where clients' code cannot be executed on this machine."""
        if self._sandbox is not None:
            await self._sandbox.open()

    async def open(self) -> None:
        """Take over what the dead have left, and take from the queue."""
        await self.queue.open()

    async def drain(self, patience: float) -> None:
        """Take no commands but those of runs and handlers under way; all of them may end within `patience` seconds."""
        self.commands.is_draining = True
        await asyncio.gather(self.queue.drain(patience), self.code.drain(patience))

    async def close(self) -> None:
        """After `drain`: stop what was begun since, and let go of the sandbox."""
        await self.queue.drain(0)
        if self._sandbox is not None:
            await self._sandbox.close()
