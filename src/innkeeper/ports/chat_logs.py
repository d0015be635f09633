"""Where chat logs are copied to, beside the store that they are derived in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from innkeeper.core.chat_logs import ChatLog
from innkeeper.core.times import Instant


class ChatLogSink(Protocol):
    """Another database that holds chat logs.

    Each method fails with `StorageUnavailable`, within seconds, where that database is away or does not answer.
    """

    async def write(self, rows: Sequence[ChatLog]) -> Mapping[str, str]:
        """Keep rows; those that are there already stay as they are.

        Returns why, by its run, of each that it refuses while it keeps the others.
        """

    async def forget_runs(self, run_ids: Sequence[str]) -> None:
        """Drop the rows of these runs."""

    async def forget_before(self, before: Instant, limit: int) -> int:
        """Drop rows of what was asked before then, the oldest first, up to `limit`; returns how many."""

    async def forget_user(self, user: str, organization: str | None, limit: int) -> int:
        """Drop rows of a user, up to `limit`, in every organization where none is named; returns how many."""

    async def close(self) -> None:
        """Let go of the connection; nothing is waited for."""
