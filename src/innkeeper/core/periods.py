"""Periods: from when until when, as people write it: a day (`2026-01-31`), or a time with its zone."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

from innkeeper.core.times import Instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WANTED = "must be a day such as 2026-01-31, or a time with its zone such as 2026-01-31T12:00:00Z"


def begins_at(text: str) -> Instant:
    """The time that is written, or the first moment of that day in UTC. Raises: ValueError that says what is wanted."""
    return _instant(_moment(text))


def ends_before(text: str) -> Instant:
    """The time that is written, or the end of that day in UTC, which belongs to it. Raises: as `begins_at`."""
    moment = _moment(text)
    return Instant(_instant(moment) + 86_400_000_000) if _DAY.fullmatch(text) else _instant(moment)


def _moment(text: str) -> datetime:
    try:
        if _DAY.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(_WANTED) from None
    if moment.tzinfo is None:
        raise ValueError(_WANTED)
    return moment


def _instant(moment: datetime) -> Instant:
    return Instant((moment - _EPOCH) // timedelta(microseconds=1))
