"""Administrators: people who operate the platform, by their address; never none once there has been one."""

from __future__ import annotations

from dataclasses import dataclass

from innkeeper.core.times import Instant


@dataclass(frozen=True, slots=True)
class Admin:
    """`email` is in lower case; `workos_id` is the person's id at the identity provider."""

    id: str
    email: str
    workos_id: str
    name: str
    created_by: str
    created_at: Instant


@dataclass(frozen=True, slots=True)
class PlatformStatistics:
    """What has been counted of everybody's runs. A user is active who ran something within the last 30 days."""

    users: int = 0
    active_users: int = 0
    organizations: int = 0
    requests: int = 0
    requests_today: int = 0
    tokens: int = 0
    tokens_today: int = 0
