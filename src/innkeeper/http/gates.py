"""The gate: who asks, and whether they may, decided before anything parses a body.

In this order: the Host must be ours, a browser's Origin must be ours, somebody must be behind the request,
and that somebody must hold the route's permission.
Invariant: a route without a declared permission cannot be constructed (`http.routes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from innkeeper.core.errors import Forbidden, ForeignHost, Unauthorized
from innkeeper.core.identity import LOCAL_CALLER, Caller, Role

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
    "server:read": Role.READ,
    "server:admin": Role.ADMIN,
    "docs:read": Role.READ,
}
"""What a role must at least be to use a permission."""

_RANK = {Role.READ: 0, Role.USER: 1, Role.ADMIN: 2}
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
_IN_PROCESS = "testclient"
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"})
"""Headers that proxies add; of `X-Forwarded-*` any one stands for all."""
_WATCHED = _FORWARDED | {b"host", b"origin", b"sec-fetch-site"}


@dataclass(frozen=True, slots=True)
class GateSettings:
    """`allowed_hosts` are names beside the loopback ones; `allowed_origins` are browsers' origins."""

    is_auth_enabled: bool = True
    is_auth_forced: bool = False
    allowed_hosts: frozenset[str] = field(default_factory=frozenset)
    allowed_origins: frozenset[str] = field(default_factory=frozenset)


class Gate:
    """Admits requests and WebSockets."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings

    def admit(self, scope: Any, permission: str) -> Caller | None:
        """The caller behind a request; `None` for the anonymous on public routes.

        Raises: ForeignHost, Forbidden (origin or permission), Unauthorized.
        """
        seen: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _WATCHED:
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
        if permission == PUBLIC:
            return caller
        if caller is None:
            raise Unauthorized("This needs a credential: send Authorization: Bearer <token>.")
        if _RANK[caller.role] < _RANK[PERMISSIONS[permission]]:
            raise Forbidden(f"This needs the permission {permission}, which the credential does not have.")
        return caller

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
        if not is_own and text not in self._settings.allowed_origins:
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
        )
        return LOCAL_CALLER if is_local else None


def _host_name(host: bytes) -> str:
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "::ffff:127.0.0.1")
