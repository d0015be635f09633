"""What operators may read: balances, usage, chat logs, administrators, the audit log. As in `ports.readers`.

Where a method takes no caller, whoever asks has been let through to everybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from innkeeper.core.admins import Admin, PlatformStatistics
from innkeeper.core.audit import AuditEntry
from innkeeper.core.chat_logs import ChatLog, ChatLogFilter, ChatStatistics
from innkeeper.core.credits import Balance, BalanceEntry, BookedCredits, ModelTotal, UsageRecord
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.times import Instant
from innkeeper.core.usage import CreditRecord


class CreditReader(Protocol):
    """Balances, their movements, and what runs consumed."""

    async def balances(self, organization: str, users: Sequence[str]) -> Sequence[Balance]:
        """The balances of these users of an organization, as far as they have one."""

    async def has_any(self) -> bool:
        """Whether anybody has a balance."""

    async def page(self, *, limit: int, after: tuple[str, str] | None = None) -> tuple[Sequence[Balance], bool]:
        """All balances in the order of organization and user, those beyond `after`; and whether there are more."""

    async def entries(
        self, organization: str, user: str, *, limit: int, after: str | None = None
    ) -> tuple[Sequence[BalanceEntry], bool]:
        """The movements of a balance, newest first, those older than the entry `after`; and whether there are more."""

    async def entry(self, organization: str, user: str, entry_id: str) -> BalanceEntry | None:
        """One movement of a balance."""

    async def usage(
        self, owner: Owner | None, *, limit: int, after: str | None = None
    ) -> tuple[Sequence[UsageRecord], bool]:
        """Tokens by run and model, newest run first, those of runs older than `after`, whole runs; whether more."""

    async def usage_between(
        self, since: Instant, until: Instant, *, limit: int, after: tuple[str, str] = ("", "")
    ) -> Sequence[UsageRecord]:
        """Tokens of runs that were accepted in that time, in the order of (run, model), those beyond `after`."""

    async def totals(
        self, since: Instant, until: Instant, *, organization: str | None = None, user: str | None = None
    ) -> Sequence[ModelTotal]:
        """Tokens by model of runs that were accepted in that time: of all, of an organization, or of one of its users.

        In the order of the models' names.
        """

    async def records(
        self, owner: Owner | None, *, limit: int, after: str | None = None
    ) -> tuple[Sequence[BookedCredits], bool]:
        """What runs were charged and what their agents tracked, newest first, older than `after`; whether more."""

    async def records_of(self, run_id: str) -> Sequence[CreditRecord]:
        """What a run was charged and what its agent tracked, in order."""


class ChatLogReader(Protocol):
    """Of chat logs, a caller sees its own; `sees_all` shows everybody's."""

    async def page(
        self,
        caller: Caller,
        wanted: ChatLogFilter,
        *,
        limit: int,
        offset: int = 0,
        sees_all: bool = False,
        with_contents: bool = False,
    ) -> tuple[Sequence[ChatLog], int]:
        """Newest first, without the first `offset`; and how many fit in all."""

    async def statistics(self, caller: Caller, wanted: ChatLogFilter, *, sees_all: bool = False) -> ChatStatistics:
        """Over all that fit."""

    async def user_statistics(
        self, caller: Caller, wanted: ChatLogFilter, *, limit: int, sees_all: bool = False
    ) -> Sequence[ChatStatistics]:
        """As `statistics`, a row a user, the busiest first."""

    async def has_underived(self) -> bool:
        """Whether a run has ended that has no row yet."""

    async def uncopied(self, limit: int, *, after: str = "") -> Sequence[ChatLog]:
        """Rows, with their contents, that have not been copied yet, in the order of their runs, beyond `after`."""


class UserReader(Protocol):
    async def organizations(self, user: str) -> Sequence[str]:
        """Those in which something is stored of somebody of this name, who asked or on whose behalf others did."""


class AdminReader(Protocol):
    async def all(self) -> Sequence[Admin]:
        """In the order in which they were made."""

    async def find(self, *, email: str | None = None, workos_id: str | None = None) -> Admin | None:
        """Who has that address, or that id at the identity provider."""

    async def statistics(self, now: Instant) -> PlatformStatistics: ...


class AuditReader(Protocol):
    async def page(self, *, limit: int, offset: int = 0) -> tuple[Sequence[AuditEntry], int]:
        """Newest first, without the first `offset`; and how many there are."""

    async def chain(self, after: int, limit: int) -> Sequence[tuple[AuditEntry, str]]:
        """Entries beyond the number `after`, in order, each with its metadata as it is stored."""

    async def head(self) -> tuple[int, str]:
        """The number and digest of the last entry that was written."""
