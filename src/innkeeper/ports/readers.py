"""What may be read, a protocol an aggregate. Every read names its caller and sees that owner's rows only.

Reads see everything whose commit has been answered. They raise `StorageUnavailable` when the store does
not answer in time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from innkeeper.core.actions import ActionStatus, StoredAction
from innkeeper.core.changes import Fence, Lineage, Segment
from innkeeper.core.commands import Command, Hold
from innkeeper.core.engines import Engine, EngineStatus
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.injections import Injection
from innkeeper.core.logs import LogFilter, LogPage
from innkeeper.core.messages import Message
from innkeeper.core.runs import Plan, Run, RunStatus
from innkeeper.core.session_events import EventFilter, SessionEvent
from innkeeper.core.sessions import Session, StoredMessage
from innkeeper.core.sources import HandlerDeclaration, HandlerKind, SourceHandler, SourceTool, ToolDeclaration
from innkeeper.core.times import Instant
from innkeeper.core.tokens import Token


class SessionReader(Protocol):
    async def find(self, caller: Caller, session_id: str, user_id: str | None = None) -> Session | None:
        """The session that this caller calls `session_id`; `user_id` picks among its end users.

        A caller that is bound to one session finds no other.
        """

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        user_id: str | None = None,
        agent_name: str | None = None,
        archived: bool | None = None,
    ) -> tuple[Sequence[Session], bool]:
        """Newest first, those older than the session called `after`; and whether there are more."""

    async def numbered(
        self, caller: Caller, user_id: str, *, limit: int, offset: int = 0
    ) -> tuple[Sequence[Session], int]:
        """The sessions of one end user, newest first, without the first `offset`; and how many there are in all.

        Who sees everybody's is shown one tenant's after another's.
        """

    async def outputs(self, session: Session) -> Mapping[str, int]:
        """How many tokens each run of a session put out, where its agent told."""

    async def messages(
        self,
        session: Session,
        *,
        limit: int | None = None,
        after: int = 0,
        oldest_first: bool = False,
        before: int | None = None,
    ) -> Sequence[StoredMessage]:
        """The session's current conversation beyond position `after` and before position `before`, in order.

        With a `limit`, the last so many of it; with `oldest_first`, the first so many.
        """

    async def history(self, lineage: Lineage) -> Sequence[Message]:
        """The messages of exactly that lineage, oldest first."""

    async def until(self, caller: Caller, run_id: str) -> Sequence[Message] | None:
        """The conversation up to the last message of a run of this caller's own; `None` where it has none."""


class RunReader(Protocol):
    async def find(self, caller: Caller, run_id: str) -> Run | None: ...

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        session_key: str | None = None,
        user_id: str | None = None,
        agent_name: str | None = None,
        status: RunStatus | None = None,
    ) -> tuple[Sequence[Run], bool]:
        """Newest first, those older than the run `after`; and whether there are more."""

    async def plan(self, run_id: str) -> Plan | None:
        """How the request of a run was worded, where the store keeps it: of those in the background."""

    async def segments(self, run_id: str, after: int, limit: int = 64) -> Sequence[Segment]:
        """Up to `limit` segments that hold events beyond `after`, in order; the first may begin before it."""

    async def owned(self, worker: str) -> Sequence[tuple[Run, Fence]]:
        """The runs that this worker holds and that have not ended, oldest first."""

    async def open_in(self, session_key: str) -> Sequence[Run]:
        """The runs of a session that have not ended, oldest first."""

    async def cancelled(self, worker: str) -> Sequence[str]:
        """The ids of those that this worker holds and whose end has been asked for."""

    async def ready(self, worker: str) -> Sequence[str]:
        """The ids of those that this worker holds, queued, and that wait for no other run of their session."""

    async def has_queued(self) -> bool:
        """Whether a run in the background waits to be taken."""

    async def count_queued(self, owner: Owner) -> tuple[int, int]:
        """How many runs in the background have not begun, and how many of them are this owner's."""

    async def of_trace(self, caller: Caller, trace_id: str, limit: int) -> Sequence[Run]:
        """This caller's runs of a trace, the first `limit` in order, without what was said in them."""


class ActionReader(Protocol):
    async def of_run(self, run_id: str) -> Sequence[StoredAction]:
        """Everything that a run has asked people to do, in order."""

    async def page(
        self, caller: Caller, *, limit: int, after: str | None = None, status: ActionStatus | None = None
    ) -> tuple[Sequence[StoredAction], bool]:
        """Those of the newest runs first, of a run in order, whole runs; `after` is a run's id; and whether there are
        more."""


class InjectionReader(Protocol):
    async def find(self, caller: Caller, injection_id: str) -> Injection | None: ...

    async def has_accepted(self, run_id: str) -> bool:
        """Whether messages wait to be delivered into this run."""


class WorkerReader(Protocol):
    async def processes(self) -> Sequence[tuple[str, str]]:
        """The workers that serve this store, each with what tells its process."""


class EventReader(Protocol):
    """The logs of sessions. A page costs the same wherever in a log it lies, and however long that is."""

    async def page(
        self, session: Session, wanted: EventFilter, *, limit: int, offset: int = 0
    ) -> tuple[Sequence[SessionEvent], int]:
        """Up to `limit` events that fit, oldest first, without the first `offset`; and how many fit in all."""

    async def find(self, session: Session, sequence: int) -> SessionEvent | None: ...

    async def beyond(self, session: Session, after: int, limit: int) -> Sequence[SessionEvent]:
        """The events that follow `after`, in order."""

    async def of_run(
        self, session_key: str, run_id: str, *, after: int = 0, limit: int = 10_000
    ) -> Sequence[SessionEvent]:
        """What the log of the session tells of one run beyond `after`, in order."""


class CommandReader(Protocol):
    async def find(self, caller: Caller, session_key: str, command_id: str) -> Command | None:
        """A command of this session; reactions are not found."""

    async def has_queued(self) -> bool:
        """Whether a command waits to be taken."""

    async def cancelled(self, worker: str) -> Sequence[str]:
        """The ids of those that this worker executes and whose end has been asked for."""

    async def held(self, worker: str) -> Sequence[tuple[Command, Hold]]:
        """What this worker executes."""

    async def count_open(self) -> Sequence[tuple[str, int]]:
        """How many are queued and executing, by status."""

    async def of_trace(self, caller: Caller, trace_id: str, limit: int) -> Sequence[Command]:
        """This caller's commands and reactions of a trace, the first `limit`, without what was said in them."""


class SourceReader(Protocol):
    """Code of clients, and what it has put aside. Sources are read one at a time, as a session may have many MiB."""

    async def tools(self, session_key: str) -> Sequence[ToolDeclaration]:
        """In the order of their names."""

    async def tool(self, session_key: str, name: str) -> SourceTool | None: ...

    async def handlers(
        self, session_key: str, kind: HandlerKind, type: str | None = None
    ) -> Sequence[HandlerDeclaration]:
        """Those for one type, or for any by the names of their types, in the order in which they were registered."""

    async def handler(
        self, session_key: str, kind: HandlerKind, type: str, handler_id: str
    ) -> SourceHandler | None: ...

    async def state(self, session_key: str, name: str) -> object:
        """What was put aside under `name`, or `None`."""


class EngineReader(Protocol):
    async def find(self, caller: Caller, engine_id: str) -> Engine | None: ...

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        session_key: str | None = None,
        status: EngineStatus | None = None,
    ) -> tuple[Sequence[Engine], bool]:
        """Newest first, those older than the engine `after`; and whether there are more."""


class TokenReader(Protocol):
    """What the gate asks before there is a caller."""

    async def find(self, token_id: str) -> tuple[Token, str] | None:
        """A token and the digest of its secret, revoked and expired ones too."""

    async def page(
        self, *, limit: int, after: str | None = None, user: str | None = None, organization: str | None = None
    ) -> tuple[Sequence[Token], bool]:
        """Tokens, of that user and that organization, newest first, older than `after`; and whether there are more."""

    async def session_of(self, digest: str) -> Session | None:
        """The session that the token with this digest opens."""


class LogReader(Protocol):
    async def page(
        self, caller: Caller, wanted: LogFilter, *, limit: int, after: str | None = None, sees_all: bool = False
    ) -> LogPage:
        """Newest first, those older than the record `after`. `sees_all` shows others' too.

        Of so many records that no page could find enough among them, a bounded number is looked at.
        """

    async def older_than_newest(self, count: int) -> Instant | None:
        """When the newest record was made that at least `count` others are newer than; `None` if there is none."""


class CountReader(Protocol):
    """How much there is. Queues are counted over all sessions and owners, and cost what is in them."""

    async def queued_runs(self) -> int:
        """How many runs in the background wait to be taken."""

    async def runs_of(self, session: Session) -> Mapping[str, int]:
        """How many runs a session has, by status; statuses of none are left out."""

    async def events_of(self, session: Session) -> int:
        """How long the session's log is."""
