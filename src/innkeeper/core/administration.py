"""Administration: what may be written about balances, usage, chat logs, administrators and the audit log.

Part of `core.changes`, as `control_changes` is.
"""

from __future__ import annotations

from dataclasses import dataclass

from innkeeper.core.admins import Admin
from innkeeper.core.audit import AuditEntry
from innkeeper.core.claims import Claim
from innkeeper.core.credits import Balance
from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant


@dataclass(frozen=True, slots=True)
class WriteAudit:
    """Put an entry at the end of the audit log; committed with what it tells of, which stands before it.

    Where that was `Missing`, nothing was done that could be told, and so is this.
    """

    entry: AuditEntry


@dataclass(frozen=True, slots=True)
class SetBalance:
    """Let so much be left to a user or an organization, beside what is set aside for runs under way. `Balanced`."""

    organization: str
    user: str
    amount: int
    entry_id: str
    actor: str
    reason: str
    now: Instant


@dataclass(frozen=True, slots=True)
class AddCredits:
    """Add to a balance, or make it. `Balanced`; `Repeated` where the claim is known. Raises: Invalid beyond bounds."""

    organization: str
    user: str
    amount: int
    entry_id: str
    actor: str
    reason: str
    now: Instant
    claimant: Owner
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class RemoveBalance:
    """Nothing bounds this user or organization any more; `Missing` where nothing did. Entries stay, with a last one."""

    organization: str
    user: str
    entry_id: str
    actor: str
    reason: str
    now: Instant


@dataclass(frozen=True, slots=True)
class RateUsage:
    """What the tokens of runs cost, anew: for each (run, model), in billionths, or `None`."""

    costs: tuple[tuple[str, str, int | None], ...]


@dataclass(frozen=True, slots=True)
class DeriveChatLogs:
    """Write the chat logs of up to `limit` runs that have ended and have none; `copies` leaves them to be copied.

    Counts users and days as well. `Derived`.
    """

    limit: int = 500
    copies: bool = False


@dataclass(frozen=True, slots=True)
class CopiedChatLogs:
    """These runs' chat logs have been copied. `Uncopied` tells of which nothing is left: they were erased meanwhile."""

    run_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForgetChatLogs:
    """Drop chat logs that are older than `before`, the oldest first, up to `limit`. `Derived` tells how many."""

    before: Instant
    limit: int = 5_000


@dataclass(frozen=True, slots=True)
class ForgetToken:
    """Revoke a token, drop its name, and call its user `stand_in` from now on."""

    token_id: str
    stand_in: str
    now: Instant


@dataclass(frozen=True, slots=True)
class ForgetUser:
    """Erase what is stored of a user of an organization, up to about `limit` rows at a time.

    `Derived` tells how many; 0 when nothing is left. Tokens are revoked. What was consumed stays, under the name
    `stand_in`, and so do the entries of the user's balance; the audit log stays as it is.
    """

    user: str
    organization: str
    stand_in: str
    now: Instant
    limit: int = 1_000


@dataclass(frozen=True, slots=True)
class AddAdmin:
    """Raises: AdminConflict where the address or the id is known."""

    admin: Admin


@dataclass(frozen=True, slots=True)
class RemoveAdmin:
    """Revokes the admin's tokens of that person, too. `Missing` where nobody has that address. Raises: LastAdmin."""

    email: str
    now: Instant


AdministrationChange = (
    WriteAudit
    | SetBalance
    | AddCredits
    | RemoveBalance
    | RateUsage
    | DeriveChatLogs
    | CopiedChatLogs
    | ForgetChatLogs
    | ForgetToken
    | ForgetUser
    | AddAdmin
    | RemoveAdmin
)


@dataclass(frozen=True, slots=True)
class Audited:
    """The entry in its place."""

    entry: AuditEntry


@dataclass(frozen=True, slots=True)
class Balanced:
    """The balance as it is now."""

    balance: Balance


@dataclass(frozen=True, slots=True)
class Derived:
    """How many rows were written, or dropped."""

    count: int


@dataclass(frozen=True, slots=True)
class Uncopied:
    """Runs whose chat logs have been erased while they were copied, so that the copies must go as well."""

    run_ids: tuple[str, ...] = ()


AdministrationOutcome = Audited | Balanced | Derived | Uncopied
