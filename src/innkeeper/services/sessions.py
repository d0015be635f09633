"""Sessions: make, find, list, change and delete conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from innkeeper.core.changes import AppendMessages, Change, CreateSession, DeleteSession, KeepClaim, UpdateSession
from innkeeper.core.claims import Claim, Claimed
from innkeeper.core.errors import PreviousRunNotFound, SessionNotFound
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.outcomes import Appended, Done, Repeated
from innkeeper.core.sessions import Session, StoredMessage
from innkeeper.core.times import Instant
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import SessionReader
from innkeeper.services.identities import checked_user, end_user


class NewSession(NamedTuple):
    """A session that was asked for. `is_repeated` says that the same request had made it before, whatever became of
    it since; `token` opens it, and is told only once, to the first request.
    """

    session: Session
    is_repeated: bool = False
    token: str | None = None


class Sessions:
    """The use cases of sessions."""

    def __init__(
        self,
        *,
        journal: Journal,
        sessions: SessionReader,
        now: Callable[[], int],
        new_id: Callable[[], str],
        new_token: Callable[[], tuple[str, str]],
        on_deletion: Callable[[str], None],
    ) -> None:
        """`new_token` makes a session's token and its digest; `on_deletion` is told the key of a deleted session."""
        self._journal = journal
        self._sessions = sessions
        self._now = now
        self._new_id = new_id
        self._new_token = new_token
        self._on_deletion = on_deletion

    async def create(
        self,
        caller: Caller,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        agent_name: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, object] | None = None,
        with_token: bool = False,
        claim: Claim | None = None,
        prefix: str = "",
        messages: Sequence[Message] = (),
    ) -> NewSession:
        """Make a session, and a token that opens it where `with_token` asks for one; it begins with `messages`.

        An id that is made here begins with the `prefix`.

        Raises: RunConflict if the caller has a session of that id; Forbidden for another's end user;
        IdempotencyMismatch.
        """
        owner, end_user_id = caller.owner, end_user(caller, user_id)

        def made(key: str, now: Instant) -> Session:
            return Session(
                key=key,
                owner=owner,
                user_id=end_user_id,
                id=session_id or prefix + key,
                created_at=now,
                updated_at=now,
                agent_name=agent_name,
                title=title,
                metadata=dict(metadata or {}),
            )

        session = made(self._new_id(), Instant(self._now()))
        token, digest = self._new_token() if with_token else (None, None)
        creation: tuple[Change, ...] = (CreateSession(session, digest),)
        if messages:
            creation += (AppendMessages(session.key, tuple(messages), session.created_at),)
        if claim is None:
            await self._journal.commit(creation)
            return NewSession(session, token=token)
        keeping = KeepClaim(owner, claim, session.key, session.created_at)
        outcome, *_ = await self._journal.commit((keeping, *creation))
        if isinstance(outcome, Repeated):
            return NewSession(made(outcome.claimed.subject, outcome.claimed.created_at), is_repeated=True)
        return NewSession(session, token=token)

    async def get(self, caller: Caller, session_id: str, user_id: str | None = None) -> Session:
        """Raises: SessionNotFound; Forbidden for another's end user."""
        user = checked_user(caller, user_id) if caller.session_key is None else user_id  # else it is of that session
        session = await self._sessions.find(caller, session_id, user)
        if session is None:
            raise _missing(session_id)
        return session

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
        """Newest first, and whether there are more; `after` is a session's id or key.

        Raises: Forbidden for another's end user.
        """
        user = checked_user(caller, user_id)
        return await self._sessions.page(
            caller, limit=limit, after=after, user_id=user, agent_name=agent_name, archived=archived
        )

    async def numbered(
        self, caller: Caller, user_id: str | None, *, limit: int, offset: int
    ) -> tuple[Sequence[Session], int]:
        """An end user's, the caller's own if none is named, newest first; and how many there are in all.

        Raises: Forbidden for another's end user.
        """
        user = checked_user(caller, user_id) or caller.owner.user
        return await self._sessions.numbered(caller, user, limit=limit, offset=offset)

    async def transcript(
        self, caller: Caller, session_id: str, user_id: str | None = None
    ) -> tuple[Session, Sequence[StoredMessage], Mapping[str, int]]:
        """The session, what was said in it for others to hear, and how many tokens each run put out.

        Raises: SessionNotFound; Forbidden for another's end user.
        """
        session, messages = await self.messages(caller, session_id, user_id=user_id)
        heard = [stored for stored in messages if not stored.message.is_internal]
        return session, heard, await self._sessions.outputs(session)

    async def messages(
        self, caller: Caller, session_id: str, *, user_id: str | None = None, limit: int | None = None, after: int = 0
    ) -> tuple[Session, Sequence[StoredMessage]]:
        """The session and its current conversation, oldest first."""
        session = await self.get(caller, session_id, user_id)
        return session, await self._sessions.messages(session, limit=limit, after=after)

    async def page_of_messages(
        self, caller: Caller, session_id: str, *, user_id: str | None = None, limit: int, after: int = 0
    ) -> tuple[Sequence[StoredMessage], bool]:
        """The current conversation beyond position `after`, oldest first, and whether there is more."""
        return await self.said_after(await self.get(caller, session_id, user_id), after, limit)

    async def said_after(self, session: Session, after: int, limit: int) -> tuple[Sequence[StoredMessage], bool]:
        """What was said beyond position `after`, oldest first, and whether there is more."""
        found = await self._sessions.messages(session, after=after, limit=limit + 1, oldest_first=True)
        return found[:limit], len(found) > limit

    async def until(self, caller: Caller, run_id: str) -> Sequence[Message]:
        """The conversation up to the end of a run of the caller's own.

        Raises: PreviousRunNotFound.
        """
        found = await self._sessions.until(caller, run_id)
        if found is None:
            named = f"resp_{run_id.removeprefix('run_')}"
            raise PreviousRunNotFound(f"Previous response {named!r} not found.", param="previous_response_id")
        return found

    async def said_before(
        self, session: Session, before: int | None, limit: int
    ) -> tuple[Sequence[StoredMessage], bool]:
        """What was said before position `before`, newest first, and whether there is more."""
        found = await self._sessions.messages(session, limit=limit + 1, before=before)
        return [*reversed(found)][:limit], len(found) > limit

    async def append(
        self,
        caller: Caller,
        session_id: str,
        messages: Sequence[Message],
        *,
        user_id: str | None = None,
        claim: Claim | None = None,
    ) -> tuple[Sequence[StoredMessage], bool]:
        """Add messages without running anything; returns them, and whether the same request had done so before.

        Raises: SessionNotFound, IdempotencyMismatch.
        """
        session = await self.get(caller, session_id, user_id)
        change = AppendMessages(session.key, tuple(messages), Instant(self._now()), claim)
        (outcome,) = await self._journal.commit((change,))
        if isinstance(outcome, Repeated):
            return _as_stored(messages, outcome.claimed), True
        if not isinstance(outcome, Appended):
            raise _missing(session_id)
        return outcome.messages, False

    async def update(
        self,
        caller: Caller,
        session_id: str,
        *,
        user_id: str | None = None,
        title: str | None = None,
        clears_title: bool = False,
        metadata: Mapping[str, object] | None = None,
        archived: bool | None = None,
    ) -> Session:
        """Change what is named."""
        session = await self.get(caller, session_id, user_id)
        change = UpdateSession(session.key, Instant(self._now()), title, clears_title, metadata, archived)
        (outcome,) = await self._journal.commit((change,))
        if not isinstance(outcome, Done) or outcome.session is None:
            raise _missing(session_id)
        return outcome.session

    async def delete(self, session: Session) -> None:
        """Remove the session with all that was said in it."""
        (outcome,) = await self._journal.commit((DeleteSession(session.key),))
        if not isinstance(outcome, Done):
            raise _missing(session.id)
        self._on_deletion(session.key)


def _as_stored(messages: Sequence[Message], claimed: Claimed) -> Sequence[StoredMessage]:
    """What the same request had stored: its messages, which never change, from the position that its claim keeps."""
    assert claimed.answer is not None, "the claim of messages keeps their position"
    first = int(claimed.answer)
    return [StoredMessage(first + index, None, message, claimed.created_at) for index, message in enumerate(messages)]


def _missing(session_id: str) -> SessionNotFound:
    return SessionNotFound(f"Session {session_id!r} does not exist.", param="session_id")
