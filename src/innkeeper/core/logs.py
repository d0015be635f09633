"""Logs: what the server says of its work, and what clients say of theirs, to be found again by level and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant

Source = Literal["server", "client"]


class Level(IntEnum):
    """As in the standard library's `logging`."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50


NOBODY = Owner("", "")
"""The owner of what the server itself logged."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of a log, the server's own or a client's; what a run says in the server's log has the run's owner.

    Its id is a time-ordered one, made right after `created_at`: the order of ids is that of records.
    """

    id: str
    owner: Owner
    source: Source
    level: Level
    logger: str
    message: str
    created_at: Instant
    session_id: str | None = None
    request_id: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which records: of at least a level, of a session, from `since` until before `until`, and with a text.

    The text is looked for in messages, whatever the case of its letters, and nothing in it is a pattern.
    """

    level: Level | None = None
    session_id: str | None = None
    since: Instant | None = None
    until: Instant | None = None
    text: str | None = None
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class LogPage:
    """Records, newest first; `next` is what to ask beyond for more, or `None` where there are none.

    A page may be short, and even empty, and not be the last: one request looks at so many records only.
    """

    records: tuple[LogRecord, ...] = ()
    next: str | None = None


def id_at(instant: Instant) -> str:
    """What sorts before the ids of all records that were made at `instant` or later: ids begin with milliseconds."""
    return f"{min(max(instant // 1000, 0), 2**48 - 1):012x}"
