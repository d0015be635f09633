"""The command queue: commands and reactions taken from the store, executed, and ended, at most so many at a time.

The table of commands is the queue, as that of runs is for runs. What is accepted while there is room is begun at
once by whoever accepted it; the rest is taken by any process, what is urgent first. A command that was executed when
its process died is executed again if its handler is idempotent; else it fails, because what it did is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any

from innkeeper.core.commands import Command, CommandError, CommandStatus, Hold
from innkeeper.core.control_changes import (
    EndCommand,
    EndedCommand,
    ReleaseCommand,
    TakeCommands,
    TakeDeadCommands,
    TakenCommands,
)
from innkeeper.core.errors import InnkeeperError, StorageUnavailable
from innkeeper.core.outcomes import Missing, Outcome
from innkeeper.core.times import Instant
from innkeeper.ports.journal import Journal
from innkeeper.ports.meters import Meter
from innkeeper.ports.readers import CommandReader
from innkeeper.services.command_outcomes import INTERRUPTED, Ending, completed, notes_of, timed_out, told_of
from innkeeper.services.command_turns import CommandTurns
from innkeeper.services.handling import Handling

_logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_DEAD_EVERY = 5
_FIRST_RETRY, _LAST_RETRY = 0.1, 5.0
_STOP_SECONDS = 1.0
_MAX_ATTEMPTS, _MAX_TAKEN = 10, 64


@dataclass(slots=True)
class _Execution:
    command: Command
    hold: Hold
    task: asyncio.Task[None] | None = None
    stop: asyncio.Future[CommandStatus] | None = None


class CommandQueue:
    """Executes commands. `on_growth` hears of each session whose log has grown by an end."""

    def __init__(
        self,
        *,
        journal: Journal,
        commands: CommandReader,
        handling: Handling,
        meter: Meter,
        now: Callable[[], int],
        worker: str,
        limit: int,
        shows_errors: bool,
        on_growth: Callable[[str], None],
        on_work: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._commands = commands
        self._handling = handling
        self._meter = meter
        self._now = now
        self.worker = worker
        self.turns = CommandTurns()
        self._limit = limit
        self._shows_errors = shows_errors
        self._on_growth = on_growth
        self._on_work = on_work
        self._under_way: dict[str, _Execution] = {}
        self._promised = 0
        self._context = copy_context()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._wake = asyncio.Event()
        self._taking: asyncio.Task[None] | None = None
        self._suspects: frozenset[str] = frozenset()
        self._is_draining = False
        self._leaves_at = math.inf
        self._is_asked = False
        self.on_end: Callable[[Command], None] | None = None
        """Hears of each command that was ended here, without its result."""

    # what is at hand

    @contextlib.contextmanager
    def room(self, wanted: int, *, is_waited_for: bool = False) -> Iterator[int]:
        """How many of so many may be begun here, which nobody else is promised while this lasts.

        What another one waits for is begun in any case, so that it can end.
        """
        free = 0 if self._is_draining else self._limit - len(self._under_way) - self._promised
        room = min(wanted, max(is_waited_for and not self.is_leaving, free))
        self._promised += room
        try:
            yield room
        finally:
            self._promised -= room

    def begin(self, command: Command, hold: Hold) -> None:
        """Execute a command that this worker holds. It sees nothing of the code that asked for it, which may be far."""
        execution = self._under_way[command.id] = _Execution(command, hold)
        execution.stop = asyncio.get_running_loop().create_future()
        execution.task = asyncio.create_task(self._execute(execution), context=self._context.copy())

    def wake(self) -> None:
        """Commands may wait to be taken."""
        self._wake.set()

    def look(self) -> None:
        """Somebody has asked for the end of a command."""
        self._is_asked = True
        self._wake.set()

    def freed(self) -> None:
        """Commands wait that any process may take."""
        self._wake.set()
        self._on_work()

    def stop(self, command_id: str) -> bool:
        """End a command as cancelled; false if it is not executed here."""
        execution = self._under_way.get(command_id)
        if execution is None or execution.stop is None:
            return False
        if not execution.stop.done():
            execution.stop.set_result(CommandStatus.CANCELLED)
        return True

    def stop_session(self, session_key: str) -> None:
        """End all that is executed here of a session that is gone."""
        for execution in self._under_way.values():
            if execution.command.session_key == session_key:
                self.stop(execution.command.id)

    def __contains__(self, command_id: object) -> bool:
        return command_id in self._under_way

    def ended(self, command_id: str) -> asyncio.Future[None]:
        """Done when a command that is executed here has ended."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(command_id, []).append(waiter)
        waiter.add_done_callback(lambda _: self._forget(command_id, waiter))
        return waiter

    def _forget(self, command_id: str, waiter: asyncio.Future[None]) -> None:
        waiters = self._waiting.get(command_id, [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiting.pop(command_id, None)

    def _tell(self, command_id: str) -> None:
        for waiter in self._waiting.pop(command_id, []):
            if not waiter.done():
                waiter.set_result(None)

    # executing

    async def _execute(self, execution: _Execution) -> None:
        command = execution.command
        try:
            status, result, error = await self._outcome(execution)
            if status is CommandStatus.QUEUED:
                await self._commit(ReleaseCommand(execution.hold))
                return
            await self._end(command, execution.hold, status, result, error)
        finally:
            del self._under_way[command.id]
            self._tell(command.id)
            self._wake.set()

    async def _outcome(self, execution: _Execution) -> Ending:
        """What becomes of a command: `QUEUED` where it is left to another process."""
        command, stop = execution.command, execution.stop
        assert stop is not None, "an execution can be stopped"
        calling = asyncio.create_task(self._handling.handle(command))
        calling.add_done_callback(_hear)
        either: list[asyncio.Future[Any]] = [calling, stop]
        await asyncio.wait(either, timeout=command.timeout, return_when=asyncio.FIRST_COMPLETED)
        if not calling.done():
            calling.cancel()
            await asyncio.wait([calling], timeout=_STOP_SECONDS)
            if not calling.done():
                _logger.warning("command %s did not react to being stopped and is ended without it", command.id)
            return await self._stopped(command, stop)
        if calling.cancelled():
            return CommandStatus.CANCELLED, None, None
        failure = calling.exception()
        if failure is None:
            return completed(calling.result())
        return CommandStatus.FAILED, None, told_of(command, failure, shows_errors=self._shows_errors)

    async def _stopped(self, command: Command, stop: asyncio.Future[CommandStatus]) -> Ending:
        if not stop.done():
            return timed_out(command)
        if stop.result() is CommandStatus.CANCELLED:
            return CommandStatus.CANCELLED, None, None
        if await self._handling.is_idempotent(command):
            return CommandStatus.QUEUED, None, None
        return CommandStatus.FAILED, None, INTERRUPTED

    async def _end(
        self, command: Command, hold: Hold, status: CommandStatus, result: object, error: CommandError | None
    ) -> None:
        now = Instant(self._now())
        notes = notes_of(command, error, now)
        outcome = await self._commit(EndCommand(hold, command.session_key, status, now, result, error, notes))
        if not isinstance(outcome, EndedCommand):
            return
        self._meter.command_ended(status.value, max(0, now - (command.started_at or now)) / 1_000_000)
        self._on_growth(command.session_key)
        if self.on_end is not None:
            self.on_end(replace(command, status=status, error=error, ended_at=now))
        if outcome.freed:
            self.freed()

    async def _commit(self, change: EndCommand | ReleaseCommand) -> Outcome:
        """Write what has become of a command, however long the store is away."""
        pause = _FIRST_RETRY
        while True:
            try:
                (outcome,) = await self._journal.commit((change,))
            except StorageUnavailable:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_RETRY)
            except InnkeeperError:
                _logger.exception("the end of command %s could not be written", change.hold.command_id)
                return Missing()
            else:
                return outcome

    # taking

    async def open(self) -> None:
        """Take over what processes that are gone have left, and take from the queue from now on."""
        await self._inherit()
        self._taking = asyncio.create_task(self._take_all())

    async def _take_all(self) -> None:
        """Look when woken, and every second, because a wake-up may be lost."""
        looks, loop = 0, asyncio.get_running_loop()
        due = loop.time() + _LOOK_SECONDS
        while not self._is_draining:
            try:
                await self._take()
                if self._is_asked:
                    self._is_asked = False
                    await self._stop_asked()
                if loop.time() >= due:
                    looks, due = looks + 1, loop.time() + _LOOK_SECONDS
                    await self._look(looks)
            except InnkeeperError as error:
                _logger.warning("the queue of commands cannot be read: %s", error)
            except Exception:
                _logger.exception("taking commands failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(max(due, loop.time() + 0.01)):
                    await self._wake.wait()
            self._wake.clear()

    async def _take(self) -> None:
        while await self._take_some():
            pass

    async def _take_some(self) -> bool:
        """Whether there may be more. Room is promised only where something waits: what comes would have none."""
        if len(self._under_way) + self._promised >= self._limit:
            return False
        if not await self._commands.has_queued():
            self.turns.emptied()
            return False
        with self.room(_MAX_TAKEN) as room:
            if not room:
                return False
            (outcome,) = await self._journal.commit((TakeCommands(self.worker, Instant(self._now()), room),))
            if not isinstance(outcome, TakenCommands):
                return False
            self.turns.taken(command for command, _ in outcome.commands)
            for command, hold in outcome.commands:
                self.begin(command, hold)
            return bool(outcome.commands)

    async def _look(self, looks: int) -> None:
        await self._stop_asked()
        if looks % _DEAD_EVERY == 0:
            await self._inherit()
            await self._find_orphans()

    async def _stop_asked(self) -> None:
        """End what others have asked to end."""
        if self._under_way:
            for command_id in await self._commands.cancelled(self.worker):
                self.stop(command_id)

    async def _inherit(self) -> None:
        """Take over what is executed by processes that are gone."""
        (outcome,) = await self._journal.commit((TakeDeadCommands(self.worker),))
        if isinstance(outcome, TakenCommands) and outcome.commands:
            _logger.warning("%d commands of a worker that has died are taken over", len(outcome.commands))
            for command, hold in outcome.commands:
                await self._inherit_one(command, hold)

    async def _inherit_one(self, command: Command, hold: Hold) -> None:
        if command.is_cancelling:
            await self._end(command, hold, CommandStatus.CANCELLED, None, None)
        elif command.attempt < _MAX_ATTEMPTS and await self._handling.is_idempotent(command):
            await self._commit(ReleaseCommand(hold))
            self.freed()
        else:
            await self._end(command, hold, CommandStatus.FAILED, None, INTERRUPTED)

    async def _find_orphans(self) -> None:
        """End what the store says this worker executes and it knows nothing of, now and the last time it looked.

        There are such commands when a commit's outcome was never learned. What is executed and not this worker's any
        more, because its session was deleted or it was taken for dead, is stopped.
        """
        known = set(self._under_way)
        held = {command.id: (command, hold) for command, hold in await self._commands.held(self.worker)}
        for command_id in known - held.keys():
            self.stop(command_id)
        unknown = held.keys() - self._under_way.keys()
        for command_id in self._suspects & unknown:
            await self._inherit_one(*held[command_id])
        self._suspects = frozenset(unknown)

    # leaving

    @property
    def is_leaving(self) -> bool:
        """Whether nothing may begin here any more, not even what is part of something that is under way."""
        return asyncio.get_running_loop().time() >= self._leaves_at

    async def drain(self, patience: float) -> None:
        """Take no more; what is under way, with what it asks for yet, may end within `patience` seconds of the first
        call, then it is stopped.
        """
        loop = asyncio.get_running_loop()
        self._leaves_at = min(self._leaves_at, loop.time() + patience)
        self._is_draining = True
        self._wake.set()
        if self._taking is not None:
            await asyncio.wait([self._taking], timeout=_STOP_SECONDS + 2.0)
            self._taking.cancel()  # a store that is away would keep it for ever
        while (tasks := self._tasks()) and not self.is_leaving:
            await asyncio.wait(tasks, timeout=self._leaves_at - loop.time())
        for execution in list(self._under_way.values()):
            if execution.stop is not None and not execution.stop.done():
                execution.stop.set_result(CommandStatus.QUEUED)
        if left := self._tasks():
            await asyncio.wait(left, timeout=_STOP_SECONDS + 2.0)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [one.task for one in self._under_way.values() if one.task is not None]


def _hear(calling: asyncio.Task[object]) -> None:
    """What is raised by code that was given up long ago concerns nobody."""
    if not calling.cancelled():
        calling.exception()
