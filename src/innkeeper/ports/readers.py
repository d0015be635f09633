"""What may be read, a protocol an aggregate. Every read names its caller and sees that owner's rows only.

Reads see everything whose commit has been answered. They raise `StorageUnavailable` when the store does
not answer in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from innkeeper.core.changes import Fence, Lineage, Segment
from innkeeper.core.identity import Caller
from innkeeper.core.injections import Injection
from innkeeper.core.messages import Message
from innkeeper.core.runs import Run, RunStatus
from innkeeper.core.sessions import Session, StoredMessage


class SessionReader(Protocol):
    async def find(self, caller: Caller, session_id: str, user_id: str | None = None) -> Session | None:
        """The session that this caller calls `session_id`; `user_id` picks among its end users."""

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

    async def messages(
        self, session: Session, *, limit: int | None = None, after: int = 0, oldest_first: bool = False
    ) -> Sequence[StoredMessage]:
        """The session's current conversation beyond position `after`, in order.

        With a `limit`, the last so many of it; with `oldest_first`, the first so many.
        """

    async def history(self, lineage: Lineage) -> Sequence[Message]:
        """The messages of exactly that lineage, oldest first."""


class RunReader(Protocol):
    async def find(self, caller: Caller, run_id: str) -> Run | None: ...

    async def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None = None,
        session_key: str | None = None,
        agent_name: str | None = None,
        status: RunStatus | None = None,
    ) -> tuple[Sequence[Run], bool]:
        """Newest first, those older than the run `after`; and whether there are more."""

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


class InjectionReader(Protocol):
    async def find(self, caller: Caller, injection_id: str) -> Injection | None: ...

    async def has_accepted(self, run_id: str) -> bool:
        """Whether messages wait to be delivered into this run."""


class WorkerReader(Protocol):
    async def processes(self) -> Sequence[tuple[str, str]]:
        """The workers that serve this store, each with what tells its process."""
