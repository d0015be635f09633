"""The gate: who asks, and whether they may, decided before anything parses a body.

In this order: the head must be within its bounds, the Host must be ours, a browser's Origin must be ours, somebody must
be behind the request, who must not be too fast (`services.rates`), and must hold the route's permission. Without a
credential all of it is decided at once; what a request presents (`http.presenting`) is looked up, which is what has to
be awaited, as counts in Redis are.
Invariant: a route without a declared permission cannot be constructed (`http.routes`).
Invariant: who comes with a session's token gets to the routes of that session only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from innkeeper.core.errors import Forbidden, ForeignHost, InnkeeperError, Unauthorized
from innkeeper.core.identity import LOCAL_CALLER, Caller, Role
from innkeeper.core.rates import Verdict
from innkeeper.core.tokens import CODE, OBSERVABILITY, Refusal
from innkeeper.http.addresses import Network, address_of, trust
from innkeeper.http.allowances import keep
from innkeeper.http.bounds import Bounds
from innkeeper.http.peers import Peers
from innkeeper.http.presenting import CREDENTIAL, HEADERS, Presented, presented, presented_in_subprotocols
from innkeeper.services.credentials import Credentials
from innkeeper.services.rates import Rates, refusal, refusal_of_credentials

PUBLIC = "public"
"""The permission of liveness routes: anybody may ask."""

PERMISSIONS: Mapping[str, Role] = {
    "agents:read": Role.READ,
    "sessions:read": Role.READ,
    "sessions:write": Role.USER,
    "runs:read": Role.READ,
    "runs:write": Role.USER,
    "control:read": Role.READ,
    "control:write": Role.USER,
    "code:write": Role.ADMIN,
    "observability:read": Role.ADMIN,
    "files:read": Role.READ,
    "files:write": Role.USER,
    "workspaces:read": Role.READ,
    "workspaces:write": Role.USER,
    "workspaces:admin": Role.ADMIN,
    "credits:read": Role.READ,
    "credits:admin": Role.ADMIN,
    "chat_logs:read": Role.READ,
    "tokens:admin": Role.ADMIN,
    "users:admin": Role.ADMIN,
    "platform:admin": Role.ADMIN,
    "audit:read": Role.ADMIN,
    "prompts:read": Role.ADMIN,
    "server:read": Role.READ,
    "server:admin": Role.ADMIN,
    "docs:read": Role.READ,
}
"""What a role must at least be to use a permission."""

_SCOPES: Mapping[str, str] = {
    "code:write": CODE,
    "observability:read": OBSERVABILITY,
    "prompts:read": OBSERVABILITY,
}
"""The scope with which a token of a lower role may use a permission, too."""
_ALSO_LOCAL = frozenset({"observability:read", "prompts:read"})
"""What the local user may do beyond its role."""
_OF_A_SESSION = "/api/sessions/{session_id}"
_PUBLIC_PATIENCE = 0.5
_IS_ADMITTED = "innkeeper.is_admitted"
_TOLD = {
    Refusal.UNKNOWN: "The credential matches no token. Make one with: innkeeper tokens create",
    Refusal.REVOKED: "This token has been revoked.",
    Refusal.EXPIRED: "This token has expired.",
}

_RANK = {Role.READ: 0, Role.USER: 1, Role.ADMIN: 2}
# A tuple, because its members are compared by identity, where a set would hash the role at every request.
_HOLDERS: Mapping[str, tuple[Role, ...]] = {
    permission: tuple(role for role in Role if _RANK[role] >= _RANK[least]) for permission, least in PERMISSIONS.items()
}
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
_IN_PROCESS = "testclient"
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"})
"""Headers that proxies add; of `X-Forwarded-*` any one stands for all."""
_WATCHED = _FORWARDED | HEADERS | {b"host", b"origin", b"sec-fetch-site"}


@dataclass(frozen=True, slots=True)
class GateSettings:
    """`allowed_hosts` are names beside the loopback ones; `allowed_origins` are browsers' origins, `*` for any.

    `trusted_proxies` are those whose word on their clients' addresses is believed.
    """

    is_auth_enabled: bool = True
    is_auth_forced: bool = False
    allowed_hosts: frozenset[str] = field(default_factory=frozenset)
    allowed_origins: frozenset[str] = field(default_factory=frozenset)
    trusted_proxies: tuple[Network, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)


class HasCredentials(Protocol):
    """What has been started for the running loop, as far as the gate needs it."""

    @property
    def credentials(self) -> Credentials: ...


class Pending:
    """What is left to be decided about a request with a credential; await it for what `admit` else returns."""

    __slots__ = ("_verification",)

    def __init__(self, verification: Callable[[], Awaitable[Caller | None]]) -> None:
        self._verification = verification

    def __await__(self) -> Generator[Any, None, Caller | None]:
        return self._verification().__await__()


async def admit_socket(gate: Gate, scope: Any, permission: str) -> Caller:
    """The caller behind a WebSocket: before it is accepted, and again whenever it asks for something new.

    Raises: as `Gate.admit`.
    """
    admitted = gate.admit(scope, permission)
    caller = await admitted if isinstance(admitted, Pending) else admitted
    assert caller is not None, "a WebSocket is not public"
    scope[_IS_ADMITTED] = True
    return caller


class Gate:
    """Admits requests and WebSockets. `start` starts what is not running yet, and returns it.

    `groups` has the group of each route by its path, and `None` for those that are not counted.
    """

    def __init__(
        self, settings: GateSettings, start: Callable[[], Awaitable[HasCredentials]], rates: Rates | None = None
    ) -> None:
        self._settings = settings
        self._start = start
        self._peers = Peers()
        self._rates = rates
        self.groups: Mapping[str, str | None] = {}

    def admit(self, scope: Any, permission: str, path: str | None = None) -> Caller | Pending | None:
        """The caller behind a request; `None` for the anonymous on public routes.

        `path` is the route's, with its parameters' names; that of a WebSocket is in the scope.
        Raises, here or when it is awaited: AddressTooLong, HeadersTooLarge, Unparsable (the head); ForeignHost;
        Forbidden (origin or permission); Unauthorized; RateLimited; StorageUnavailable.
        """
        settings = self._settings
        settings.bounds.check(scope)
        if settings.trusted_proxies:
            trust(scope, settings.trusted_proxies)
        seen: dict[bytes, bytes] = {}
        sent: list[tuple[bytes, bytes]] = []
        for name, value in scope["headers"]:
            if name in _WATCHED:
                if name in HEADERS:
                    sent.append((name, value))
                    continue
                if name == b"host" and name in seen:
                    raise ForeignHost("The request has two Host headers.")
                seen[name] = value
            elif name.startswith(b"x-forwarded-"):
                seen[b"x-forwarded-for"] = value
        client = scope.get("client")
        peer = client[0] if client else ""
        host = _host_name(seen.get(b"host", b""))
        if peer == _IN_PROCESS and not _FORWARDED.isdisjoint(seen):
            peer = ""  # a proxy passed on what a client said of itself
        self._check_host(host, peer)
        if b"origin" in seen:
            self._check_origin(seen[b"origin"], seen.get(b"host", b""), scope)
        caller = self._recognise(scope, seen, peer, host)
        if path is None:
            path = getattr(scope.get("route"), "path", "")
        if sent or scope["type"] == "websocket":
            found = presented(sent) | presented_in_subprotocols(scope)
            if found:
                return self._weigh(found, caller, permission, scope, path)
        return self._counted(caller, permission, scope, path)

    def _weigh(
        self, found: frozenset[Presented], caller: Caller | None, permission: str, scope: Any, path: str
    ) -> Caller | Pending | None:
        """Look up what may be a credential; `caller` is who it is without one."""
        if len(found) > 1:
            if permission == PUBLIC:
                return self._counted(caller, permission, scope, path)
            return Pending(lambda: self._fail(scope, "The request has several credentials, and they differ; send one."))
        (one,) = found
        if one.is_well_formed:
            text = one.text
            return Pending(lambda: self._verified(text, caller, permission, scope, path))
        if caller is None and permission != PUBLIC:
            return Pending(lambda: self._fail(scope, _TOLD[Refusal.UNKNOWN]))
        return self._counted(caller, permission, scope, path)

    async def _verified(
        self, text: str, caller: Caller | None, permission: str, scope: Any, path: str
    ) -> Caller | None:
        if permission == PUBLIC:
            found = await self._glimpsed(text, caller, scope)
        else:
            found = await self._known(text, caller, scope)
            if found is not caller:
                scope[CREDENTIAL] = text
        counted = self._counted(found, permission, scope, path)
        return await counted if isinstance(counted, Pending) else counted

    async def _known(self, text: str, caller: Caller | None, scope: Any) -> Caller:
        """Who stands behind a credential; behind one that matches nothing, the local user, who may always send one."""
        found = await self._looked_up(text, scope)
        if not isinstance(found, Refusal):
            return found
        if found is not Refusal.UNKNOWN or caller is None:
            await self._fail(scope, _TOLD[found])
        return caller

    async def _glimpsed(self, text: str, caller: Caller | None, scope: Any) -> Caller | None:
        """Who asks on a public route: nobody is turned away there, nor does anybody wait for a store that is ill."""
        try:
            async with asyncio.timeout(_PUBLIC_PATIENCE):
                found = await self._looked_up(text, scope)
                if isinstance(found, Refusal):
                    if found is Refusal.UNKNOWN and caller is not None:
                        return caller
                    await self._fail(scope, _TOLD[found])
        except (InnkeeperError, TimeoutError):
            return None
        return None if found.session_key is not None else found

    async def _looked_up(self, text: str, scope: Any) -> Caller | Refusal:
        credentials = (await self._start()).credentials
        if self._rates is None or not self._rates.has_suspects or credentials.has_known(text):
            return await credentials.caller(text)
        with self._rates.looking_up(address_of(scope)):
            return await credentials.caller(text)

    async def _fail(self, scope: Any, told: str) -> NoReturn:
        """Count a credential that opens nothing, and refuse it; of those who have sent too many, with another status.

        Raises: Unauthorized, RateLimited.
        """
        address = address_of(scope)
        counting = None if self._rates is None else self._rates.failed(address)
        verdict = counting if counting is None or isinstance(counting, Verdict) else await counting
        if verdict is not None:
            keep(scope, verdict)
        if self._rates is None or verdict is None or verdict.is_allowed:
            raise Unauthorized(told)
        self._rates.suspect(address, verdict)
        raise refusal_of_credentials(verdict)

    def _counted(self, caller: Caller | None, permission: str, scope: Any, path: str) -> Caller | Pending | None:
        """Count the request for whom it is from, then see whether that one may."""
        group = self.groups.get(path, "")
        if self._rates is None or group is None:
            return _let_in(caller, permission, scope, path)
        connects = scope["type"] == "websocket" and _IS_ADMITTED not in scope
        counting = self._rates.count(caller, address_of(scope), group, connects=connects)
        if counting is None or isinstance(counting, Verdict):
            return _passed(counting, caller, permission, scope, path)

        async def pass_later() -> Caller | None:
            return _passed(await counting, caller, permission, scope, path)

        return Pending(pass_later)

    def _check_host(self, host: str, peer: str) -> None:
        if host in _LOOPBACK_NAMES or host in self._settings.allowed_hosts or peer == _IN_PROCESS:
            return
        if "*" in self._settings.allowed_hosts:
            return
        raise ForeignHost("This server does not answer for that Host; add it to ALLOWED_HOSTS if it should.")

    def _check_origin(self, origin: bytes, host: bytes, scope: Any) -> None:
        text = origin.decode("latin-1")
        scheme, _, name = text.partition("://")
        own = host.decode("latin-1")
        is_own = name == own and scheme in ("http", "https") and scope["type"] in ("http", "websocket")
        allowed = self._settings.allowed_origins
        if not is_own and text not in allowed and "*" not in allowed:
            raise Forbidden("Requests from pages of that origin are not allowed; see CORS_ORIGINS.")

    def _recognise(self, scope: Any, seen: Mapping[bytes, bytes], peer: str, host: str) -> Caller | None:
        settings = self._settings
        if not settings.is_auth_enabled:
            return LOCAL_CALLER
        if settings.is_auth_forced:
            return None
        if peer == _IN_PROCESS:
            return LOCAL_CALLER
        server = scope.get("server")
        is_local = (
            _is_loopback(peer)
            and server is not None
            and _is_loopback(server[0])
            and host in _LOOPBACK_NAMES
            and _FORWARDED.isdisjoint(seen)
            and scope.get("http_version", "1.1") != "1.0"
            and seen.get(b"sec-fetch-site") != b"cross-site"
            and self._peers.is_ours(scope["client"], server)
        )
        return LOCAL_CALLER if is_local else None


def _passed(verdict: Verdict | None, caller: Caller | None, permission: str, scope: Any, path: str) -> Caller | None:
    """Raises: RateLimited, Unauthorized, Forbidden."""
    if verdict is not None:
        keep(scope, verdict)
        if not verdict.is_allowed:
            raise refusal(verdict, caller)
    return _let_in(caller, permission, scope, path)


def _let_in(caller: Caller | None, permission: str, scope: Any, path: str) -> Caller | None:
    """Raises: Unauthorized, Forbidden."""
    if caller is not None and caller.session_key is not None and caller.session_id != _session_of(scope, path):
        raise _denied("A session's token opens that session only, at /api/sessions/{its id}.", caller)
    return permitted(caller, permission)


def permitted(caller: Caller | None, permission: str) -> Caller | None:
    """The caller, if that one may; on public routes anybody may. Raises: Unauthorized, Forbidden."""
    if permission == PUBLIC:
        return caller
    if caller is None:
        raise Unauthorized("This needs a credential: send Authorization: Bearer <token>.")
    if caller.role in _HOLDERS[permission]:
        return caller
    scope = _SCOPES.get(permission)
    if scope in caller.scopes or (caller.is_local and permission in _ALSO_LOCAL):
        return caller
    role = PERMISSIONS[permission].value
    remedy = f"a token with the role {role}" + (f", or with the scope {scope}" if scope else "")
    raise _denied(f"This needs the permission {permission}: {remedy}.", caller, permission)


def check_permission(caller: Caller, permission: str) -> None:
    """For what a request asks beyond its route. Raises: Forbidden."""
    permitted(caller, permission)


def _denied(told: str, caller: Caller, permission: str | None = None) -> Forbidden:
    denial = Forbidden(told)
    denial.owner, denial.permission = caller.owner, permission
    return denial


def _session_of(scope: Any, path: str) -> str | None:
    """The id of the session whose route this is, as the router understood it, which is how its handler will, too."""
    if path == _OF_A_SESSION or path.startswith(f"{_OF_A_SESSION}/"):
        session_id: str | None = scope["path_params"].get("session_id")
        return session_id
    return None


def _host_name(host: bytes) -> str:
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "::ffff:127.0.0.1")
