"""Periods: from when until when, as people write it: a day (`2026-01-31`), or a time. Both are of UTC unless they say.

A day belongs to its period as a whole; of a time, what comes from then on, or what came before.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from innkeeper.core.times import Instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400_000_000
_WANTED = "must be a day such as 2026-01-31, or a time such as 2026-01-31T12:00:00Z"


def begins_at(text: str) -> Instant:
    """The time that is written, or the first moment of that day. Raises: ValueError that says what is wanted."""
    return _instant(text)


def ends_before(text: str) -> Instant:
    """The time that is written, or the end of that day. Raises: as `begins_at`."""
    return Instant(_instant(text) + _DAY) if _is_day(text) else _instant(text)


def _instant(text: str) -> Instant:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(_WANTED) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return Instant((moment - _EPOCH) // timedelta(microseconds=1))


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
