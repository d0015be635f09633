"""Logs: what the server says of its work, and what clients say of theirs, to be found again by level and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant


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
    """One line of a log, the server's own or a client's."""

    id: str
    owner: Owner
    source: Literal["server", "client"]
    level: Level
    logger: str
    message: str
    created_at: Instant
    session_id: str | None = None
    request_id: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which records: of at least a level, of a session, within a time, and with a text in their message."""

    level: Level | None = None
    session_id: str | None = None
    since: Instant | None = None
    until: Instant | None = None
    text: str | None = None
