"""The session log: what happened in a session, read in pages, and events that clients and handlers add to it.

An event is stored together with the reactions to it, so that no handler is forgotten by a crash in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from innkeeper.core.claims import Claim
from innkeeper.core.commands import MAX_DEPTH, Command, CommandStatus, Priority
from innkeeper.core.control_changes import Published, PublishEvent
from innkeeper.core.errors import EventNotFound, Invalid, SessionNotFound
from innkeeper.core.events import json_bytes
from innkeeper.core.outcomes import Outcome, Repeated
from innkeeper.core.session_events import SERVER_TYPES, EventFilter, Note, SessionEvent, Source, sequence_of
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.core.traces import SpanPlace
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import EventReader
from innkeeper.services.causes import Causes
from innkeeper.services.command_queue import CommandQueue
from innkeeper.services.handlers import checked_type
from innkeeper.services.handling import Handling, current_command, current_place
from innkeeper.services.source_code import Where

MAX_DATA = 256 * 1024
"""Bytes of JSON that an event may say."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that somebody wants to publish."""

    event_type: str
    data: Mapping[str, object]
    metadata: Mapping[str, object]
    source: Source = "client"


class SessionLog:
    """The use cases of session events."""

    def __init__(
        self,
        *,
        journal: Journal,
        events: EventReader,
        handling: Handling,
        queue: CommandQueue,
        now: Callable[[], int],
        new_id: Callable[[], str],
        on_growth: Callable[[str], None],
    ) -> None:
        self._journal = journal
        self._events = events
        self._handling = handling
        self._queue = queue
        self._now = now
        self._new_id = new_id
        self._on_growth = on_growth
        self._causes = Causes()

    # reading

    async def page(
        self, session: Session, wanted: EventFilter, *, limit: int, offset: int = 0
    ) -> tuple[Sequence[SessionEvent], int]:
        """Oldest first, and how many fit in all."""
        return await self._events.page(session, wanted, limit=limit, offset=offset)

    async def get(self, session: Session, event_id: str) -> SessionEvent:
        """Raises: EventNotFound."""
        sequence = sequence_of(session.key, event_id)
        event = None if sequence is None else await self._events.find(session, sequence)
        if event is None:
            raise EventNotFound(f"Event {event_id!r} does not exist in this session.", param="event_id")
        return event

    # publishing

    async def publish(
        self,
        session: Session,
        new: NewEvent,
        claim: Claim | None = None,
        parent: SpanPlace | None = None,
    ) -> tuple[SessionEvent, bool]:
        """Store an event with the reactions to it; and whether the same request had stored it before.

        The reactions join the trace of `parent`, or else of the code that publishes, or else are one of their own.

        Raises: Invalid; SessionNotFound if the session was deleted meanwhile; IdempotencyMismatch; TooBusy.
        """
        _check(new)
        cause = current_command()
        note = Note(new.event_type, Instant(self._now()), new.data, new.source, metadata=new.metadata)
        where = Where(session.owner, session.key, session.id)
        names = await self._handling.find_events(where, new.event_type)
        depth = 0 if cause is None else cause.depth + 1
        if names and depth > MAX_DEPTH:
            raise Invalid(f"Events and commands caused each other {MAX_DEPTH} deep; this one is not published.")
        if names and cause is not None:
            self._causes.add(cause, len(names))
        with self._queue.room(len(names)) as room:
            reactions = self._reactions(
                session, new.event_type, names, depth=depth, parent=parent or current_place(), room=room
            )
            change = PublishEvent(session.key, note, reactions, self._queue.worker, claim, session.owner)
            outcome = await asyncio.shield(self._store(change))
        if isinstance(outcome, Repeated):
            return await self.get(session, outcome.claimed.subject), True
        if not isinstance(outcome, Published):
            raise SessionNotFound(f"Session {session.id!r} does not exist.", param="session_id")
        return outcome.event, False

    async def _store(self, change: PublishEvent) -> Outcome:
        """Store and begin, even if whoever publishes goes away in between: what is stored as begun must be executed."""
        (outcome,) = await self._journal.commit((change,))
        if isinstance(outcome, Published):
            for command, hold in outcome.reactions:
                self._queue.begin(command, hold)
            if len(outcome.reactions) < len(change.reactions):
                self._queue.freed()
            self._on_growth(change.session_key)
        return outcome

    def _reactions(
        self,
        session: Session,
        event_type: str,
        names: Sequence[str],
        *,
        depth: int,
        parent: SpanPlace | None,
        room: int,
    ) -> tuple[Command, ...]:
        if not names:
            return ()
        now = Instant(self._now())
        ids = [f"cmd_{self._new_id()}" for _ in names]
        trace_id = parent.trace_id if parent is not None else ids[0].removeprefix("cmd_")
        return tuple(
            Command(
                id=ids[index],
                owner=session.owner,
                user_id=session.user_id,
                session_key=session.key,
                session_id=session.id,
                command_type=event_type,
                created_at=now,
                kind="reaction",
                handler=name,
                depth=depth,
                turn=0 if index < room else self._queue.turns.next(session.owner, Priority.NORMAL),
                attempt=1 if index < room else 0,
                status=CommandStatus.EXECUTING if index < room else CommandStatus.QUEUED,
                own_trace_id=trace_id if parent is not None or index else None,
                parent_span=None if parent is None else parent.span_id,
                started_at=now if index < room else None,
            )
            for index, name in enumerate(names)
        )


def _check(new: NewEvent) -> None:
    checked_type(new.event_type, "event_type")
    if new.event_type in SERVER_TYPES:
        raise Invalid(f"event_type: {new.event_type} is told by the server alone; choose another.", param="event_type")
    for name, told in (("data", new.data), ("metadata", new.metadata)):
        if len(json_bytes(told)) > MAX_DATA:
            raise Invalid(f"{name}: may have at most {MAX_DATA // 1024} KiB of JSON.", param=name)
