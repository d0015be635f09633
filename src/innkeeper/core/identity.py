"""Identity: who asks, and to whom a stored thing belongs.

An `Owner` is written into every row; a `Caller` is handed to every read and every use case. How a
caller is recognised (loopback rule, tokens) is the gate's affair, not this module's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
class Reached:
    """A thing of somebody else's that a caller has found: what kind it is of, its id, and whose it is."""

    kind: str
    id: str
    owner: Owner


class Trail:
    """What of others' one request of an administrator's has reached; of many things the first few."""

    _MOST = 10

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._reached: dict[Reached, None] = {}

    def note(self, thing: Reached) -> None:
        if thing.owner != self._owner and len(self._reached) < self._MOST:
            self._reached[thing] = None

    def taken(self) -> list[Reached]:
        """What has been noted since this was asked last."""
        found, self._reached = list(self._reached), {}
        return found


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity behind one request.

    `is_local` marks the local user of the loopback rule: nobody handed it a token, it is never an
    admin, and it may name any end user of its own. `session_key` and `session_id` bind a caller to one session, the
    one that its token opens; it finds no other of its owner's. `trail` hears what it finds of others', where that
    is to be told.
    """

    owner: Owner
    role: Role = Role.USER
    scopes: frozenset[str] = frozenset()
    is_local: bool = False
    session_key: str | None = None
    session_id: str | None = None
    trail: Trail | None = field(default=None, compare=False, repr=False)

    @property
    def sees_all(self) -> bool:
        """Whether everybody's rows are its to see and to change: an admin's, unless it is bound to one session."""
        return self.role is Role.ADMIN and self.session_key is None

    def may_see(self, owner: Owner) -> bool:
        return owner == self.owner or self.sees_all

    def reaches(self, kind: str, id: str, owner: Owner) -> None:
        """Called by who finds something for this caller by its name."""
        if self.trail is not None:
            self.trail.note(Reached(kind, id, owner))

    def looking(self) -> Caller:
        """The same caller, where what it finds of others' is only looked at."""
        return self if self.trail is None else replace(self, trail=None)

    def acting_for(self, owner: Owner) -> Caller:
        """The same caller, for what it makes of a thing of `owner` that it has found: that is `owner`'s as well."""
        return self if owner == self.owner else replace(self, owner=owner)


LOCAL_OWNER = Owner(organization="local", user="local")
LOCAL_CALLER = Caller(owner=LOCAL_OWNER, role=Role.USER, is_local=True)
