"""Tokens: make, check, revoke and list credentials, of which only digests are stored.

A digest is an HMAC with the server's key, where it has one, else a plain hash: what is hashed is 256 random bits, so
nothing is gained by slowness. Where they are kept is `ports.tokens`' affair. `credentials` stands before this and
remembers what it said for a moment.
Invariant: no token is made or revoked without an entry in the audit log.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from innkeeper.core.administration import WriteAudit
from innkeeper.core.changes import KeepClaim
from innkeeper.core.claims import Claim
from innkeeper.core.errors import Invalid, TokenNotFound
from innkeeper.core.identity import LOCAL_OWNER, Caller, Owner, Role
from innkeeper.core.times import Instant
from innkeeper.core.tokens import ID, SCOPES, SESSION_PREFIX, SESSION_TEXT, TEXT, Refusal, Token, guest_of
from innkeeper.ports.readers import TokenReader
from innkeeper.ports.tokens import TokenVault
from innkeeper.services.audit import Audit

ADMIN = "admin"
ORGANIZATION = "default"
MAX_SECONDS = 10 * 366 * 86_400
_SECRET_BYTES = 32
_NAMED = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_AGE_DIGITS, _RANDOM_DIGITS = 10, 6
_NO_DIGEST = "0" * 64
_FIRST = Claim("first-token", "first-token")
_NOBODY = Owner("", "")
"""Whose the claim on the first token is; no caller is called so."""

Random = Callable[[int], bytes]


class Digests:
    """What is stored in the place of a credential."""

    def __init__(self, key: str | None = None) -> None:
        self._key = None if key is None else key.encode()

    def __call__(self, text: str) -> str:
        data = text.encode(errors="replace")
        if self._key is None:
            return hashlib.sha256(data).hexdigest()
        return hmac.digest(self._key, data, "sha256").hex()


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made. `text` is the credential itself, which nobody can show again."""

    text: str
    token: Token

    def __repr__(self) -> str:
        return f"NewToken({self.token.id})"


class Tokens:
    """The use cases of tokens. `random` returns so many unpredictable bytes; `actor` is who acts where nobody is named.

    `sessions` finds those that a token of their own opens, which are the store's wherever tokens are kept.
    """

    def __init__(
        self,
        *,
        vault: TokenVault,
        sessions: TokenReader,
        audit: Audit,
        digests: Digests,
        now: Callable[[], int],
        random: Random,
        actor: Owner = LOCAL_OWNER,
    ) -> None:
        self._vault = vault
        self._sessions = sessions
        self._audit = audit
        self._digests = digests
        self._now = now
        self._random = random
        self._actor = actor

    async def create(
        self,
        user: str | None = None,
        role: Role | str = Role.USER,
        *,
        organization: str | None = None,
        scopes: Iterable[str] = (),
        ttl: float | None = None,
        name: str = "",
    ) -> NewToken:
        """A token of a user (its own id, where none is named), which holds `ttl` seconds, or for good.

        Raises: Invalid, which names what is wrong.
        """
        made = self.mint(user, role, organization=organization, scopes=scopes, ttl=ttl, name=name)
        text, token = await self.keep(made)
        assert text is not None, "only a claim tells that it was made before"
        return NewToken(text, token)

    def mint(
        self,
        user: str | None = None,
        role: Role | str = Role.USER,
        *,
        organization: str | None = None,
        scopes: Iterable[str] = (),
        ttl: float | None = None,
        name: str = "",
    ) -> NewToken:
        """As `create`, and kept nowhere yet."""
        return self._mint(user, _role(role), organization, _scopes(scopes), _seconds(ttl), _name(name))

    async def keep(
        self, made: NewToken, *, actor: Owner | None = None, claim: tuple[Owner, Claim] | None = None
    ) -> tuple[str | None, Token]:
        """Keep a token. Where this owner's claim has made one before, that one, whose text nobody can tell again.

        Raises: IdempotencyMismatch.
        """
        token, digest = made.token, self._digests(made.text)
        entry = self._entry("token.create", token, actor)
        if claim is None:
            known = await self._vault.create(token, digest, (entry,))
        else:
            keeping = KeepClaim(claim[0], claim[1], token.id, token.created_at)
            known = await self._vault.create(token, digest, (keeping, entry))
        if known is None:
            return made.text, token
        found = await self._vault.find(known)
        return (None, found[0]) if found is not None else await self._finish(made, known)

    async def _finish(self, made: NewToken, token_id: str) -> tuple[str | None, Token]:
        """Keep a token that was claimed, and told of in the audit log, by somebody who came no further."""
        _, _, secret = made.text.partition(".")
        owner = made.token.owner
        if owner.user == made.token.id:
            owner = Owner(owner.organization, token_id)
        text, token = f"{token_id}.{secret}", replace(made.token, id=token_id, owner=owner)
        known = await self._vault.create(token, self._digests(text))
        return (text if known is None else None), token

    async def create_first(self) -> NewToken | None:
        """An admin's token, if there has never been any token; however many ask at a time, one gets it."""
        if (await self._vault.page(limit=1))[0]:
            return None
        made = self._mint(ADMIN, Role.ADMIN, None, frozenset(), None, "made at the first start")
        text, token = await self.keep(made, claim=(_NOBODY, _FIRST))
        return None if text is None else NewToken(text, token)

    def _entry(self, action: str, token: Token, actor: Owner | None) -> WriteAudit:
        told = {
            "user": token.owner.user,
            "organization": token.owner.organization,
            "role": token.role.value,
            "scopes": sorted(token.scopes),
        }
        return self._audit.entry(actor or self._actor, action, "token", token.id, told)

    def _mint(
        self, user: str | None, role: Role, organization: str | None, scopes: frozenset[str], ttl: int | None, name: str
    ) -> NewToken:
        now = Instant(self._now())
        token_id = _token_id(now, self._random)
        owner = Owner(_named(organization or ORGANIZATION, "organization"), _named(user or token_id, "user"))
        expires_at = None if ttl is None else Instant(now + ttl)
        token = Token(token_id, owner, role, now, scopes, name, expires_at)
        return NewToken(f"{token_id}.{self._secret()}", token)

    def _secret(self) -> str:
        return urlsafe_b64encode(self._random(_SECRET_BYTES)).decode().rstrip("=")

    async def validate(self, text: str) -> Token | Refusal:
        """The token whose credential this is, or why it opens nothing.

        One that nobody ever made costs what any other does.
        """
        digest, form = self._digests(text), TEXT.fullmatch(text)
        found = None if form is None else await self._vault.find(form[1])
        if not hmac.compare_digest(digest, _NO_DIGEST if found is None else found[1]) or found is None:
            return Refusal.UNKNOWN
        token = found[0]
        if token.revoked_at is not None:
            return Refusal.REVOKED
        return token if token.is_valid_at(Instant(self._now())) else Refusal.EXPIRED

    async def revoke(self, named: str, *, actor: Owner | None = None) -> str:
        """The id of the token that this id, or this token, names, and that opens nothing from now on.

        Raises: TokenNotFound.
        """
        token = await self.get(named.partition(".")[0])
        if not await self._vault.revoke(token.id, Instant(self._now()), (self._entry("token.revoke", token, actor),)):
            raise TokenNotFound(f"There is no token {token.id}.")
        return token.id

    async def get(self, token_id: str) -> Token:
        """Raises: TokenNotFound."""
        if ID.fullmatch(token_id) is None:
            raise TokenNotFound("That is no token and no token's id: an id is ik and 16 letters and digits.")
        found = await self._vault.find(token_id)
        if found is None:
            raise TokenNotFound(f"There is no token {token_id}.")
        return found[0]

    async def list(
        self, *, limit: int = 100, after: str | None = None, user: str | None = None, organization: str | None = None
    ) -> tuple[Sequence[Token], bool]:
        """Tokens, newest first, those older than the one with the id `after`; and whether there are more."""
        return await self._vault.page(limit=limit, after=after, user=user, organization=organization)

    async def touch(self, used: Mapping[str, Instant]) -> None:
        """When tokens were used last."""
        await self._vault.touch(used)

    async def close(self) -> None:
        """Let go of where they are kept; nothing is asked any more."""
        await self._vault.close()

    def now(self) -> Instant:
        """The time by which tokens expire."""
        return Instant(self._now())

    # sessions' tokens

    def mint_for_session(self) -> tuple[str, str]:
        """A token for a session that is about to be made, and its digest."""
        text = f"{SESSION_PREFIX}{self._secret()}"
        return text, self._digests(text)

    async def guest(self, text: str) -> Caller | None:
        """Who comes with a session's token."""
        if SESSION_TEXT.fullmatch(text) is None:
            return None
        session = await self._sessions.session_of(self._digests(text))
        return None if session is None else guest_of(session)


def _token_id(now: Instant, random: Random) -> str:
    """Sorts by age to the microsecond, and tells two of one microsecond apart."""
    tail = int.from_bytes(random(8), "big")
    return f"ik{_base36(now, _AGE_DIGITS)}{_base36(tail, _RANDOM_DIGITS)}"


def _base36(number: int, width: int) -> str:
    """The last `width` digits."""
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


def _role(role: Role | str) -> Role:
    if role not in tuple(Role):
        raise Invalid(f"role: must be one of {', '.join(Role)}.", param="role")
    return Role(role)


def _scopes(scopes: Iterable[str]) -> frozenset[str]:
    found = frozenset((scopes,) if isinstance(scopes, str) else scopes)
    if not found <= set(SCOPES):
        raise Invalid(f"scopes: may only be {', '.join(SCOPES)}.", param="scopes")
    return found


def _seconds(ttl: float | None) -> int | None:
    """The time to live in microseconds."""
    if ttl is None:
        return None
    if not 0 < ttl <= MAX_SECONDS:
        raise Invalid(
            f"ttl: must be more than 0 and at most {MAX_SECONDS} seconds; leave it out for one that holds for good.",
            param="ttl",
        )
    return round(ttl * 1_000_000)


def _named(value: str, field: str) -> str:
    if _NAMED.fullmatch(value) is None:
        raise Invalid(f"{field}: must have 1 to 200 printable characters.", param=field)
    return value


def _name(name: str) -> str:
    return name if not name else _named(name, "name")
