"""Moments in queries: times in ISO 8601 with their zone, read as microseconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BeforeValidator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _instant(value: object) -> object:
    """Microseconds since the epoch. Raises: ValueError for what is no time, or one of nobody knows which zone."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("must be a time in ISO 8601 with its zone, such as 2026-01-31T12:00:00Z")
    return (moment - _EPOCH) // timedelta(microseconds=1)


Time = Annotated[int, BeforeValidator(_instant, json_schema_input_type=datetime)]
