"""Administrators: who operates the platform, and how the platform is.

They are people, known by their address and by their id at an identity provider; a token with the role `admin` is a
credential of its own and stands in no list. `services.audit` is told of every change here, in its commit.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from typing import Literal

from innkeeper.core.administration import AddAdmin, RemoveAdmin
from innkeeper.core.admins import Admin, PlatformStatistics
from innkeeper.core.changes import ForgetClaims, KeepClaim
from innkeeper.core.claims import Claim
from innkeeper.core.errors import AdminNotFound, InnkeeperError, Invalid, LastAdmin
from innkeeper.core.identity import Caller, Role
from innkeeper.core.outcomes import Missing, Repeated
from innkeeper.core.times import Instant
from innkeeper.ports.accounts import AdminReader
from innkeeper.ports.journal import Journal
from innkeeper.services.audit import Audit
from innkeeper.services.tokens import Tokens

_logger = logging.getLogger(__name__)

Health = Literal["healthy", "degraded"]

_LONGEST_EMAIL = 254
_WORD = r"[a-z0-9!#$%&'*+=?^_`{|}~-]+"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_EMAIL = re.compile(rf"(?=.{{3,{_LONGEST_EMAIL}}}\Z)(?=[^@]{{1,64}}@){_WORD}(?:\.{_WORD})*@{_LABEL}(?:\.{_LABEL})*")
_WORKOS_ID = re.compile(r"[!-~]{1,200}")
_NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,200}")
_HEALTH_SECONDS = 1.0
_PAGE = 200


class Admins:
    """The use cases of platform administration. `is_connected` says whether other processes can be woken.

    `tokens` are given where they are kept elsewhere than in the store, whose commit then does not reach them.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        admins: AdminReader,
        audit: Audit,
        is_connected: Callable[[], bool],
        now: Callable[[], int],
        new_id: Callable[[], str],
        tokens: Tokens | None = None,
    ) -> None:
        self._journal = journal
        self._admins = admins
        self._audit = audit
        self._is_connected = is_connected
        self._now = now
        self._new_id = new_id
        self._tokens = tokens

    async def all(self) -> Sequence[Admin]:
        """In the order in which they were made."""
        return await self._admins.all()

    async def add(
        self, caller: Caller, workos_id: str, email: str, name: str = "", claim: Claim | None = None
    ) -> tuple[str, bool]:
        """The address as it is stored, and whether the same request had added it before.

        Raises: Invalid, AdminConflict, IdempotencyMismatch.
        """
        address = _checked_email(email)
        _check(_WORKOS_ID, workos_id, "workos_id", "must have 1 to 200 visible characters of ASCII")
        _check(_NAME, name, "name", "may have at most 200 characters, and no control characters")
        now, user = Instant(self._now()), caller.owner.user
        admin = Admin(f"adm_{self._new_id()}", address, workos_id, name, user, now)
        entry = self._audit.entry(caller.owner, "admin.add", "admin", address, {"workos_id": workos_id, "name": name})
        keeping = () if claim is None else (KeepClaim(caller.owner, claim, admin.id, now),)
        outcomes = await self._journal.commit((*keeping, AddAdmin(admin), entry))
        return address, isinstance(outcomes[-1], Repeated)

    async def remove(self, caller: Caller, email: str) -> str:
        """The address of who is no administrator any more, and whose admin's tokens open nothing any more.

        Raises: AdminNotFound, LastAdmin.
        """
        address = email.lower()
        known = await self._admins.find(email=address)
        if known is None:
            raise _missing()
        if self._tokens is not None:
            await self._revoke(self._tokens, known, caller)
        told = {"workos_id": known.workos_id, "name": known.name}
        entry = self._audit.entry(caller.owner, "admin.remove", "admin", address, told)
        outcome, _ = await self._journal.commit((RemoveAdmin(address, Instant(self._now())), entry))
        if isinstance(outcome, Missing):
            raise _missing()
        return address

    async def _revoke(self, tokens: Tokens, admin: Admin, caller: Caller) -> None:
        """Revoke the admin's tokens of somebody who is about to be removed: before, so that none outlives its power.

        Raises: LastAdmin.
        """
        if len(await self._admins.all()) < 2:  # the commit looks again
            raise LastAdmin("This is the last administrator; add another one first.", param="email")
        for user in sorted({admin.email, admin.workos_id}):
            after, has_more = None, True
            while has_more:
                page, has_more = await tokens.list(limit=_PAGE, after=after, user=user)
                for token in page:
                    if token.role is Role.ADMIN and token.revoked_at is None:
                        await tokens.revoke(token.id, actor=caller.owner)
                after = page[-1].id if page else None

    async def statistics(self) -> PlatformStatistics:
        """What has been counted until now."""
        return await self._admins.statistics(Instant(self._now()))

    async def health(self) -> Health:
        """`healthy` where the store takes a write within a second and other processes can be woken."""
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await self._journal.commit((ForgetClaims(Instant(self._now())),))
        except (InnkeeperError, TimeoutError) as error:
            _logger.warning("the store did not take a write in time: %s", error)
            return "degraded"
        return "healthy" if self._is_connected() else "degraded"


def _checked_email(email: str) -> str:
    address = email.lower()
    _check(_EMAIL, address, "email", "must be an address such as ann@example.org, in ASCII and without a slash")
    return address


def _check(form: re.Pattern[str], text: str, field: str, told: str) -> None:
    if form.fullmatch(text) is None:
        raise Invalid(f"{field}: {told}.", param=field)


def _missing() -> AdminNotFound:
    return AdminNotFound("No administrator has that address.", param="email")
