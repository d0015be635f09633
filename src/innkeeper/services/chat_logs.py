"""Chat logs: what callers may read of them. They are written behind, by `chat_log_writer`.

Everyone sees the rows of their own runs; those who operate the server everybody's, and what others said admins alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from innkeeper.core.chat_logs import ChatLog, ChatLogFilter, ChatStatistics
from innkeeper.core.errors import SessionNotFound
from innkeeper.core.identity import Caller
from innkeeper.ports.accounts import ChatLogReader
from innkeeper.ports.readers import SessionReader
from innkeeper.services.identities import checked_user
from innkeeper.services.logs import sees_all


class ChatLogs:
    """The use cases of chat logs."""

    def __init__(self, *, chat_logs: ChatLogReader, sessions: SessionReader) -> None:
        self._chat_logs = chat_logs
        self._sessions = sessions

    async def page(
        self, caller: Caller, wanted: ChatLogFilter, *, limit: int, offset: int = 0, with_contents: bool = False
    ) -> tuple[Sequence[ChatLog], int]:
        """The rows that this caller may see, newest first, without the first `offset`; and how many fit in all.

        Raises: Forbidden for another's end user.
        """
        _check_user(caller, wanted)
        rows, total = await self._chat_logs.page(
            caller, wanted, limit=limit, offset=offset, sees_all=sees_all(caller), with_contents=with_contents
        )
        if not with_contents:
            return rows, total
        return [row if caller.may_see(row.owner) else replace(row, input=None, output=None) for row in rows], total

    async def of_session(
        self,
        caller: Caller,
        session_id: str,
        *,
        user_id: str | None = None,
        limit: int,
        offset: int = 0,
        with_contents: bool = False,
    ) -> tuple[Sequence[ChatLog], int]:
        """As `page`, of one session, which may have been deleted; of an end user's, where one is named.

        Raises: SessionNotFound where there is neither such a session nor a row of it.
        """
        wanted = ChatLogFilter(session_id=session_id, user_id=user_id)
        rows, total = await self.page(caller, wanted, limit=limit, offset=offset, with_contents=with_contents)
        if not total and await self._sessions.find(caller, session_id, user_id) is None:
            raise SessionNotFound(f"Session {session_id!r} does not exist.", param="session_id")
        return rows, total

    async def statistics(self, caller: Caller, wanted: ChatLogFilter) -> ChatStatistics:
        """Over the rows that this caller may see. Raises: Forbidden for another's end user."""
        _check_user(caller, wanted)
        return await self._chat_logs.statistics(caller, wanted, sees_all=sees_all(caller))

    async def user_statistics(self, caller: Caller, wanted: ChatLogFilter, *, limit: int) -> Sequence[ChatStatistics]:
        """As `statistics`, for each user, the busiest first."""
        _check_user(caller, wanted)
        return await self._chat_logs.user_statistics(caller, wanted, limit=limit, sees_all=sees_all(caller))


def _check_user(caller: Caller, wanted: ChatLogFilter) -> None:
    if not sees_all(caller):
        checked_user(caller, wanted.user_id)
