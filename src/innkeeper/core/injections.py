"""Injections: messages that steer a run while it runs, each with a receipt.

An injection is stored before it is acknowledged. It is `accepted` for a run under way and `delivered` when that
run's log has it; where its run ended first, or none was under way, it is `deferred` to the next one and delivered
at its start. What is still deferred after `LIFETIME` is `expired`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant

LIFETIME = 24 * 60 * 60 * 1_000_000
"""Microseconds for which a deferred injection waits for a run."""


class InjectionStatus(StrEnum):
    ACCEPTED = "accepted"
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class InjectedMessage:
    """What an agent is given: the text, and the id of its receipt."""

    content: str
    id: str


@dataclass(frozen=True, slots=True)
class Injection:
    """A receipt. `first_run_id` is the run that it was accepted for; `run_id` the one that has it, or will have it."""

    id: str
    owner: Owner
    content: str
    status: InjectionStatus
    created_at: Instant
    first_run_id: str | None = None
    run_id: str | None = None
    seq: int | None = None
    session_key: str | None = None
    agent_name: str | None = None

    def status_at(self, now: Instant) -> InjectionStatus:
        """The status as it is told: what has been deferred for too long has expired."""
        if self.status is InjectionStatus.DEFERRED and self.created_at + LIFETIME <= now:
            return InjectionStatus.EXPIRED
        return self.status
