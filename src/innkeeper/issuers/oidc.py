"""Signed tokens of an OpenID Connect issuer: is this one of its, for us, and whom does it vouch for?

Which keys there are is `issuers.keys`' affair.
Invariant: the algorithm is one that needs a private key, and fits the key's own type; what a token's header says of
keys, beside the id of one, is not heeded.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError

from innkeeper.core.identity import LOCAL_OWNER, Caller, Owner, Role
from innkeeper.core.times import Instant
from innkeeper.core.tokens import ID, JWT, MAX_JWT, SCOPES, Refusal
from innkeeper.issuers.keys import IssuerKeys, Key
from innkeeper.ports.issuers import Vouched

LEEWAY = 60
_KINDS = {
    **{f"{family}{bits}": "RSA" for family in ("RS", "PS") for bits in (256, 384, 512)},
    **{f"ES{bits}": "EC" for bits in (256, 384, 512)},
    "EdDSA": "OKP",
}
"""The type of key that each accepted algorithm needs."""
_NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")
_MAX_KID = 256
_RANK = (Role.READ, Role.USER, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Claims:
    """Which claims say what. A role of admin counts where the operator has named the claim that says it."""

    user: str = "sub"
    organization: str = "org_id"
    role: str = "role"
    scope: str = "scope"
    makes_admins: bool = False


class OidcIssuer:
    """Implements `ports.issuers.Issuer`. `now` is the time of day in microseconds."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys: IssuerKeys,
        *,
        now: Callable[[], int],
        claims: Claims = Claims(),
        organization: str = "default",
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._now = now
        self._claims = claims
        self._organization = organization
        self._registry = _Registry(algorithms=list(_KINDS), strict_check_header=False)

    async def vouch(self, text: str) -> Vouched | Refusal:
        header = _header_of(text)
        if header is None:
            return Refusal.UNKNOWN
        kid = header.get("kid")
        key = await self._keys.find(kid, _KINDS[header["alg"]])
        said = None if key is None else self._said(text, header, key)
        return Refusal.UNKNOWN if said is None else self._judged(said)

    async def close(self) -> None:
        await self._keys.close()

    def _said(self, text: str, header: Mapping[str, Any], key: Key) -> Mapping[str, Any] | None:
        """What the issuer says in this token, if it is its."""
        if key.get("alg", header["alg"]) != header["alg"]:
            return None
        try:
            payload = jws.deserialize_compact(text, key, registry=self._registry).payload
            said = json.loads(payload or b"")
        except (JoseError, ValueError, TypeError, RecursionError):
            return None
        return said if isinstance(said, dict) else None

    def _judged(self, said: Mapping[str, Any]) -> Vouched | Refusal:
        audience = said.get("aud")
        is_for_us = self._audience in audience if isinstance(audience, list) else audience == self._audience
        expiry, since = _seconds(said.get("exp")), _seconds(said.get("nbf", 0))
        if said.get("iss") != self._issuer or not is_for_us or expiry is None or since is None:
            return Refusal.UNKNOWN
        subject: Any = said.get("sub")
        user = _found(said, self._claims.user)
        organization = _found(said, self._claims.organization)
        organization = self._organization if organization is None else organization
        if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in (subject, user, organization)):
            return Refusal.UNKNOWN
        if organization == LOCAL_OWNER.organization:  # which is for those on this machine alone
            return Refusal.UNKNOWN
        if ID.fullmatch(user) is not None:  # a token without a user is a user of its own, which is called by its id
            return Refusal.UNKNOWN
        now, expires_at = self._now(), Instant(int((expiry + LEEWAY) * 1_000_000))
        if now < (since - LEEWAY) * 1_000_000:
            return Refusal.UNKNOWN
        if now >= expires_at:
            return Refusal.EXPIRED
        caller = Caller(Owner(organization, user), self._role(said), self._scopes(said))
        email = _address(said.get("email")) if said.get("email_verified") is True else None
        return Vouched(caller, subject, expires_at, email)

    def _role(self, said: Mapping[str, Any]) -> Role:
        """The highest of the roles that it names; `user` where it names none that we know."""
        named = _words(_found(said, self._claims.role))
        held = [role for role in _RANK if role.value in named and (role is not Role.ADMIN or self._claims.makes_admins)]
        return held[-1] if held else Role.USER

    def _scopes(self, said: Mapping[str, Any]) -> frozenset[str]:
        return frozenset(_words(_found(said, self._claims.scope))) & frozenset(SCOPES)


class _Registry(jws.JWSRegistry):
    """The accepted algorithms; headers may be as long as those with certificates are."""

    max_header_length = 8 * 1024
    max_payload_length = MAX_JWT

    def get_alg(self, name: str) -> Any:
        if name not in _KINDS:
            raise ValueError(name)
        return self.algorithms[name]


def _header_of(text: str) -> Mapping[str, Any] | None:
    """The header of a token that we may go on with: of an accepted algorithm, and with nothing critical."""
    if len(text) > MAX_JWT or JWT.fullmatch(text) is None:
        return None
    first = text.partition(".")[0]
    try:
        header = json.loads(urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or "crit" in header or header.get("b64", True) is not True:
        return None
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _KINDS:
        return None
    is_named = kid is None or (isinstance(kid, str) and len(kid) <= _MAX_KID)
    return header if is_named else None


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < 10**11 else None


def _address(value: object) -> str | None:
    """An address as administrators' are kept; letters beyond ASCII are none, as some of them are k in lower case."""
    return value.lower() if isinstance(value, str) and value.isascii() and value.isprintable() else None


def _found(said: Mapping[str, Any], name: str) -> Any:
    """The claim of this name, or, where there is none, the one at this path, such as `realm_access.roles`."""
    if name in said:
        return said[name]
    value: Any = said
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
