"""Balances: what is left to users and organizations, how that came about, and what their runs have consumed.

Operators change them here, each change with its entry in the audit log. What runs set aside and are charged is
`acceptances` and `settlements`.
Invariant: a caller who is no administrator sees its own user's balance and its organization's, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from innkeeper.core.administration import AddCredits, Balanced, RemoveBalance, SetBalance
from innkeeper.core.claims import Claim
from innkeeper.core.credits import (
    ORGANIZATION,
    Balance,
    BalanceEntry,
    BookedCredits,
    ModelTotal,
    UsageRecord,
    nanos,
)
from innkeeper.core.errors import BalanceNotFound, Forbidden, Invalid
from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.outcomes import Missing, Repeated
from innkeeper.core.times import Instant
from innkeeper.ports.accounts import CreditReader
from innkeeper.ports.journal import Journal
from innkeeper.services.audit import Audit
from innkeeper.services.identities import end_user


@dataclass(frozen=True, slots=True)
class Holding:
    """What bounds the runs of a user: its own balance and its organization's, as far as there are any."""

    user: Balance | None
    organization: Balance | None


class Balances:
    """The use cases of balances. `user=None` means the organization's own; `on_change` hears of each change."""

    def __init__(
        self,
        *,
        journal: Journal,
        credits: CreditReader,
        audit: Audit,
        now: Callable[[], int],
        new_id: Callable[[], str],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`new_id` makes ids whose order is that of time."""
        self._journal = journal
        self._credits = credits
        self._audit = audit
        self._now = now
        self._new_id = new_id
        self._on_change = on_change

    async def mine(self, caller: Caller, organization: str | None = None, user: str | None = None) -> Holding:
        """What bounds the caller, or whom it names and may name.

        Raises: Forbidden.
        """
        whose, name = self._place(caller, organization, user)
        users = (ORGANIZATION,) if name == ORGANIZATION else (name, ORGANIZATION)
        found = {one.user: one for one in await self._credits.balances(whose, users)}
        own = None if name == ORGANIZATION else found.get(name)
        return Holding(own, found.get(ORGANIZATION))

    async def set(
        self, actor: Owner, organization: str, user: str | None, amount: Decimal, reason: str = ""
    ) -> Balance:
        """Let so much be left from now on, beside what is set aside for runs under way."""
        change = SetBalance(
            organization, user or ORGANIZATION, nanos(amount), self._new_id(), actor.user, reason, self._instant()
        )
        told = self._audit.entry(actor, "credits.set", "balance", *_told(organization, user, amount, reason))
        balanced, _ = await self._journal.commit((change, told))
        assert isinstance(balanced, Balanced), "a balance that was set is told"
        self._on_change()
        return balanced.balance

    async def add(
        self,
        actor: Owner,
        organization: str,
        user: str | None,
        amount: Decimal,
        reason: str = "",
        claim: Claim | None = None,
    ) -> tuple[BalanceEntry, bool]:
        """Add to a balance, or make one; returns the entry, and whether the same request had been made before.

        Raises: Invalid if nothing is added, or too much is there then; IdempotencyMismatch.
        """
        if not amount:
            raise Invalid("credits: must be more than 0", param="credits")
        change = AddCredits(
            organization,
            user or ORGANIZATION,
            nanos(amount),
            self._new_id(),
            actor.user,
            reason,
            self._instant(),
            actor,
            claim,
        )
        told = self._audit.entry(actor, "credits.add", "balance", *_told(organization, user, amount, reason))
        outcome, _ = await self._journal.commit((change, told))
        entry_id = outcome.claimed.subject if isinstance(outcome, Repeated) else change.entry_id
        entry = await self._credits.entry(organization, change.user, entry_id)
        assert entry is not None, "what was added stays in the ledger"
        self._on_change()
        return entry, isinstance(outcome, Repeated)

    async def remove(self, actor: Owner, organization: str, user: str | None, reason: str = "") -> None:
        """Nothing bounds this user or organization any more.

        Raises: BalanceNotFound.
        """
        name = user or ORGANIZATION
        missing = BalanceNotFound(f"{_whose(organization, user)} has no balance.")
        if not await self._credits.balances(organization, (name,)):
            raise missing
        change = RemoveBalance(organization, name, self._new_id(), actor.user, reason, self._instant())
        told = self._audit.entry(actor, "credits.remove", "balance", *_told(organization, user, None, reason))
        outcome, _ = await self._journal.commit((change, told))
        if isinstance(outcome, Missing):
            raise missing
        self._on_change()

    async def page(self, *, limit: int, after: tuple[str, str] | None = None) -> tuple[Sequence[Balance], bool]:
        """Everybody's, in the order of organization and user, beyond `after`; and whether there are more."""
        return await self._credits.page(limit=limit, after=after)

    async def entries(
        self,
        caller: Caller,
        organization: str | None = None,
        user: str | None = None,
        *,
        limit: int,
        after: str | None = None,
    ) -> tuple[Sequence[BalanceEntry], bool]:
        """The movements of the balance that `mine` means, newest first; an organization's are for administrators.

        Raises: Forbidden.
        """
        whose, name = self._place(caller, organization, user)
        return await self._credits.entries(whose, name, limit=limit, after=after)

    async def usage(
        self,
        caller: Caller,
        organization: str | None = None,
        user: str | None = None,
        *,
        limit: int,
        after: str | None = None,
    ) -> tuple[Sequence[UsageRecord], bool]:
        """Tokens by run and model, newest run first: the caller's own; an administrator sees everybody's, or names one.

        Raises: Forbidden; Invalid for an organization without a user.
        """
        return await self._credits.usage(_of_one(caller, organization, user), limit=limit, after=after)

    async def records(
        self,
        caller: Caller,
        organization: str | None = None,
        user: str | None = None,
        *,
        limit: int,
        after: str | None = None,
    ) -> tuple[Sequence[BookedCredits], bool]:
        """What runs were charged and their agents tracked, newest first; whose is as for `usage`."""
        return await self._credits.records(_of_one(caller, organization, user), limit=limit, after=after)

    async def totals(
        self,
        caller: Caller,
        organization: str | None = None,
        user: str | None = None,
        *,
        since: Instant,
        until: Instant,
    ) -> Sequence[ModelTotal]:
        """Tokens by model of runs accepted in that time; whose is as for `usage`, or those of an organization.

        Raises: Forbidden.
        """
        if caller.role is Role.ADMIN and user is None:
            return await self._credits.totals(since, until, organization=organization)
        owner = _of_one(caller, organization, user)
        assert owner is not None, "who is no administrator sees one owner's"
        return await self._credits.totals(since, until, organization=owner.organization, user=owner.user)

    def _instant(self) -> Instant:
        return Instant(self._now())

    @staticmethod
    def _place(caller: Caller, organization: str | None, user: str | None) -> tuple[str, str]:
        """The organization and the user of the balance that is meant: where nothing is named, the caller's own."""
        own = caller.owner
        if caller.role is Role.ADMIN and organization is not None:
            return organization, ORGANIZATION if user is None else user
        _check_organization(caller, organization)
        return own.organization, _named(caller, user)


def _named(caller: Caller, user: str | None) -> str:
    try:
        return end_user(caller, user)
    except Forbidden as error:
        raise Forbidden(error.message, param="user") from None


def _of_one(caller: Caller, organization: str | None, user: str | None) -> Owner | None:
    """Whose usage is meant: that of the credentials of one user; `None` for everybody's."""
    own = caller.owner
    if caller.role is Role.ADMIN:
        if user is not None:
            return Owner(organization or own.organization, user)
        if organization is not None:
            raise Invalid("user: name the user of that organization, too.", param="user")
        return None
    _check_organization(caller, organization)
    if user not in (None, own.user):
        raise Forbidden("This credential may not see what another user's has consumed.", param="user")
    return own


def _check_organization(caller: Caller, organization: str | None) -> None:
    if organization not in (None, caller.owner.organization):
        raise Forbidden("This credential may not see another organization.", param="organization")


def _whose(organization: str, user: str | None) -> str:
    whole = f"The organization {organization!r}"
    return whole if user is None else f"The user {user!r} of the organization {organization!r}"


def _told(organization: str, user: str | None, amount: Decimal | None, reason: str) -> tuple[str, dict[str, object]]:
    """The id and the metadata of an entry in the audit log."""
    metadata: dict[str, object] = {"organization": organization, "user": user, "reason": reason}
    if amount is not None:
        metadata["credits"] = f"{amount:f}"
    return organization if user is None else f"{organization}/{user}", metadata
