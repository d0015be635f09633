"""Commands: accept, wait for, find and cancel what is asked of command handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from innkeeper.core.claims import Claim, Claimed
from innkeeper.core.commands import (
    DEFAULT_TIMEOUT,
    MAX_BATCH,
    MAX_DEPTH,
    MAX_TIMEOUT,
    MIN_TIMEOUT,
    Command,
    CommandStatus,
    Hold,
    Priority,
)
from innkeeper.core.control_changes import AcceptCommands, AcceptedCommands, CancelCommand, CancellingCommand
from innkeeper.core.errors import CommandNotFound, HandlerNotFound, Invalid, SessionNotFound, ShuttingDown
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.outcomes import Missing, Outcome, Repeated
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.core.traces import SpanPlace
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import CommandReader
from innkeeper.services.command_queue import CommandQueue
from innkeeper.services.handling import Handling, current_command, current_place
from innkeeper.services.sessions import Sessions
from innkeeper.services.source_code import Where
from innkeeper.services.wakes import Wakes

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class NewCommand:
    """A command that somebody wants to have executed; `timeout` is in seconds."""

    command_type: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    priority: Priority = Priority.NORMAL
    timeout: float = DEFAULT_TIMEOUT


class Commands:
    """The use cases of commands. `on_growth` hears of each session whose log has grown."""

    def __init__(
        self,
        *,
        journal: Journal,
        sessions: Sessions,
        commands: CommandReader,
        handling: Handling,
        queue: CommandQueue,
        wakes: Wakes,
        now: Callable[[], int],
        new_id: Callable[[], str],
        on_growth: Callable[[str], None],
    ) -> None:
        self._journal = journal
        self._sessions = sessions
        self._commands = commands
        self._handling = handling
        self._queue = queue
        self._wakes = wakes
        self._now = now
        self._new_id = new_id
        self._on_growth = on_growth
        self.is_draining = False

    # accepting

    async def accept(
        self,
        caller: Caller,
        session: Session,
        asked: Sequence[NewCommand],
        *,
        is_sequential: bool = False,
        claim: Claim | None = None,
        parent: SpanPlace | None = None,
    ) -> tuple[Sequence[Command], bool]:
        """Store commands and set them going; and whether the same request had stored them before.

        They join the trace of `parent`, or else of the code that asks; those of a batch are one trace in any case.
        While the server drains, only what runs and handlers that are under way ask for is accepted, so that they end.

        Raises: ShuttingDown; HandlerNotFound, naming the first that nobody handles; Invalid where commands caused each
        other too deep; TooBusy; SessionNotFound; IdempotencyMismatch; StorageUnavailable.
        """
        if self.is_draining and (current_place() is None or self._queue.is_leaving):
            raise ShuttingDown("The server is shutting down. Try again shortly.")
        assert 0 < len(asked) <= MAX_BATCH, "the surface bounds a batch"
        _check_timeouts(asked)
        await self._check_handlers(session, asked)
        cause, place = current_command(), parent or current_place()
        depth, wanted = 0 if cause is None else cause.depth + 1, 1 if is_sequential else len(asked)
        if depth > MAX_DEPTH:
            raise Invalid(f"Commands and events caused each other {MAX_DEPTH} deep; this one is not executed.")
        with self._queue.room(wanted, is_waited_for=depth > 0 or self.is_draining) as room:
            commands = self._made(session, asked, is_sequential, place, depth, room)
            change = AcceptCommands(session.key, commands, self._queue.worker, commands[0].created_at, claim)
            outcome = await asyncio.shield(self._store(change))
        if isinstance(outcome, Repeated):
            return await self._repeated(caller, session, outcome.claimed), True
        if not isinstance(outcome, AcceptedCommands):
            raise SessionNotFound(f"Session {session.id!r} does not exist.", param="session_id")
        return commands, False

    async def _store(self, change: AcceptCommands) -> Outcome:
        """Store and begin, even if whoever asked goes away in between: what is stored as begun must be executed."""
        (outcome,) = await self._journal.commit((change,))
        if isinstance(outcome, AcceptedCommands):
            self._set_going(change.commands)
            self._on_growth(change.session_key)
        return outcome

    async def _check_handlers(self, session: Session, asked: Sequence[NewCommand]) -> None:
        known: set[str] = set()
        where = Where(session.owner, session.key, session.id)
        for index, new in enumerate(asked):
            if new.command_type in known:
                continue
            if await self._handling.find_command(where, new.command_type) is None:
                param = f"commands.{index}.command_type" if len(asked) > 1 else "command_type"
                raise HandlerNotFound(f"No handler is registered for {new.command_type!r}.", param=param)
            known.add(new.command_type)

    def _made(
        self,
        session: Session,
        asked: Sequence[NewCommand],
        is_sequential: bool,
        parent: SpanPlace | None,
        depth: int,
        room: int,
    ) -> tuple[Command, ...]:
        now = Instant(self._now())
        ids = [f"cmd_{self._new_id()}" for _ in asked]
        trace_id = parent.trace_id if parent is not None else ids[0].removeprefix("cmd_")
        urgent = sorted(range(len(asked)), key=lambda index: 0 if is_sequential else -asked[index].priority)
        begun = set(urgent[:room])
        turns = self._turns(session.owner, asked, is_sequential, begun)
        return tuple(
            Command(
                id=ids[index],
                owner=session.owner,
                user_id=session.user_id,
                session_key=session.key,
                session_id=session.id,
                command_type=new.command_type,
                created_at=now,
                parameters=new.parameters,
                metadata=new.metadata,
                priority=new.priority,
                timeout=new.timeout,
                depth=depth,
                status=CommandStatus.EXECUTING if index in begun else CommandStatus.QUEUED,
                waits_for=ids[index - 1] if is_sequential and index else None,
                turn=turns[index],
                attempt=1 if index in begun else 0,
                own_trace_id=trace_id if parent is not None or index else None,
                parent_span=None if parent is None else parent.span_id,
                started_at=now if index in begun else None,
            )
            for index, new in enumerate(asked)
        )

    def _turns(
        self, owner: Owner, asked: Sequence[NewCommand], is_sequential: bool, begun: Collection[int]
    ) -> Sequence[int]:
        """When each is to be begun; those of a sequence wait for one another, and are one in the queue."""
        next_turn = self._queue.turns.next
        if is_sequential:
            of_priority = {priority: next_turn(owner, priority) for priority in {new.priority for new in asked}}
            return [of_priority[new.priority] for new in asked]
        return [0 if index in begun else next_turn(owner, new.priority) for index, new in enumerate(asked)]

    def _set_going(self, commands: Sequence[Command]) -> None:
        is_left = False
        for command in commands:
            if command.status is CommandStatus.EXECUTING:
                self._queue.begin(command, Hold(command.id, self._queue.worker, 1))
            else:
                is_left = True
        if is_left:
            self._queue.freed()

    async def _repeated(self, caller: Caller, session: Session, claimed: Claimed) -> Sequence[Command]:
        assert claimed.answer is not None, "the claim of commands keeps their ids"
        return [await self.get(caller, session, name) for name in claimed.answer.decode().split(" ")]

    # reading

    async def get(self, caller: Caller, session: Session, command_id: str) -> Command:
        """Raises: CommandNotFound."""
        command = await self._commands.find(caller, session.key, command_id)
        if command is None:
            raise CommandNotFound(f"Command {command_id!r} does not exist in this session.", param="command_id")
        return command

    async def wait(self, caller: Caller, session: Session, command_id: str, seconds: float) -> Command:
        """The command once it has ended, or after so many seconds, or as it is where the server stops without it.

        Raises: CommandNotFound.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            changed = self._queue.ended(command_id)
            try:
                command = await self.get(caller, session, command_id)
                left = deadline - loop.time()
                is_left = self.is_draining and command_id not in self._queue
                if command.status.is_terminal or left <= 0 or is_left:
                    return command
                await asyncio.wait([changed], timeout=min(left, _LOOK_SECONDS))
            finally:
                changed.cancel()

    async def cancel(self, caller: Caller, session: Session, command_id: str) -> Command:
        """Ask a command to end; one that has ended stays as it is. Raises: CommandNotFound."""
        found = await self.get(caller, session, command_id)
        change = CancelCommand(command_id, found.owner, Instant(self._now()))
        (outcome,) = await self._journal.commit((change,))
        if isinstance(outcome, Missing):
            raise CommandNotFound(f"Command {command_id!r} does not exist in this session.", param="command_id")
        assert isinstance(outcome, CancellingCommand), "a cancel is answered with its command"
        if outcome.freed:
            self._queue.freed()
        if outcome.worker and not self._queue.stop(command_id):
            self._wakes.look(outcome.worker)
        self._on_growth(session.key)
        return outcome.command

    def cancel_session(self, session: Session) -> None:
        """End what is executed here of a session that is deleted; other processes find out by themselves."""
        self._queue.stop_session(session.key)


def _check_timeouts(asked: Sequence[NewCommand]) -> None:
    for new in asked:
        if not MIN_TIMEOUT <= new.timeout <= MAX_TIMEOUT:
            raise Invalid(f"timeout: must be {MIN_TIMEOUT:g} to {MAX_TIMEOUT:g} seconds.", param="timeout")
