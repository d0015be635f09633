"""Identity: who asks, and to whom a stored thing belongs.

An `Owner` is written into every row; a `Caller` is handed to every read and every use case. How a
caller is recognised (loopback rule, tokens) is the gate's affair, not this module's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Role(StrEnum):
    """What a caller may do: `read` looks, `user` also runs agents, `admin` also operates the server."""

    READ = "read"
    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Owner:
    """The tenant of a row: an organization and the principal inside it."""

    organization: str
    user: str


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity behind one request.

    `is_local` marks the local user of the loopback rule: nobody handed it a token, it is never an
    admin, and it may name any end user of its own. `session_key` and `session_id` bind a caller to one session, the
    one that its token opens; it finds no other of its owner's.
    """

    owner: Owner
    role: Role = Role.USER
    scopes: frozenset[str] = frozenset()
    is_local: bool = False
    session_key: str | None = None
    session_id: str | None = None

    @property
    def sees_all(self) -> bool:
        """Whether everybody's rows are its to see and to change: an admin's, unless it is bound to one session."""
        return self.role is Role.ADMIN and self.session_key is None

    def may_see(self, owner: Owner) -> bool:
        return owner == self.owner or self.sees_all

    def acting_for(self, owner: Owner) -> Caller:
        """The same caller, for what it makes of a thing of `owner` that it has found: that is `owner`'s as well."""
        return self if owner == self.owner else replace(self, owner=owner)


LOCAL_OWNER = Owner(organization="local", user="local")
LOCAL_CALLER = Caller(owner=LOCAL_OWNER, role=Role.USER, is_local=True)
