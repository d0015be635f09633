"""Instants: whole microseconds since the Unix epoch, in UTC. Cheap to compare, to store and to order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NewType

Instant = NewType("Instant", int)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def isoformat(instant: Instant) -> str:
    """The instant as ISO 8601 in UTC with a trailing `Z`, microseconds included."""
    moment = _EPOCH + timedelta(microseconds=instant)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def unix_seconds(instant: Instant) -> int:
    """Whole seconds since the epoch, as the OpenAI wire format counts `created`."""
    return instant // 1_000_000
