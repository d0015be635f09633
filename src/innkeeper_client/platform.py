"""The platform: its figures, its administrators and its audit log, for administrators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from innkeeper_client import requests
from innkeeper_client.decoding import decode
from innkeeper_client.exceptions import invalid_answer
from innkeeper_client.requests import Request, segment

_PATH = "/api/v1/platform"


@dataclass(frozen=True, slots=True)
class PlatformStats:
    """Users are active who ran something within 30 days; today is that of UTC."""

    total_users: int
    active_users: int
    total_organizations: int
    total_requests: int
    requests_today: int
    total_tokens: int
    tokens_today: int
    system_health: str


@dataclass(frozen=True, slots=True)
class AdminResponse:
    """`status` is `added` or `removed`."""

    status: str
    email: str


@dataclass(frozen=True, slots=True)
class AuditLogEntry:
    """Who did what to what. `user_id` is `None` where nobody had a credential."""

    id: str
    timestamp: datetime
    user_id: str | None
    org_id: str | None
    action: str
    resource: str
    resource_id: str | None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditLogResponse:
    """Newest first; `count` is how many entries there are in all."""

    entries: list[AuditLogEntry]
    count: int
    limit: int
    offset: int


def get_platform_stats() -> Request[PlatformStats]:
    """Who uses the platform and how much, and how it is."""
    return requests.get(f"{_PATH}/stats", PlatformStats)


def list_admins() -> Request[dict[str, Any]]:
    """The administrators as `admins`, and their number as `count`."""
    return Request("GET", f"{_PATH}/admins", _object)


def add_admin(workos_id: str, email: str, name: str = "") -> Request[AdminResponse]:
    """Add an administrator; `workos_id` is theirs at the identity provider."""
    return requests.post(f"{_PATH}/admins", AdminResponse, {"workos_id": workos_id, "email": email, "name": name})


def remove_admin(email: str) -> Request[AdminResponse]:
    """Remove an administrator. The last one stays."""
    path = f"{_PATH}/admins/{segment(email, 'email')}"
    return Request("DELETE", path, lambda raw: decode(AdminResponse, raw or {"status": "removed", "email": email}))


def get_audit_log(limit: int = 50, offset: int = 0) -> Request[AuditLogResponse]:
    """What was done and what was refused, newest first, without the first `offset`."""
    return requests.get(f"{_PATH}/audit", AuditLogResponse, limit=limit, offset=offset)


def _object(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise invalid_answer("The server's answer is no object.", raw)
    return dict(raw)
