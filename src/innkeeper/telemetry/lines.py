"""Lines: what the server logs, from logging's records to those of the store.

A line is taken where something is logged, and costs little; what it costs to find secrets in it is paid when it is
written, so that a flood of which most is dropped does not pay it.
Invariant: nothing that a record's arguments do can raise here.
"""

from __future__ import annotations

import logging
import traceback
from typing import NamedTuple

from innkeeper.core.context import get_context, get_request_id
from innkeeper.core.errors import InnkeeperError
from innkeeper.core.identity import Owner
from innkeeper.core.logs import NOBODY, Level, LogRecord
from innkeeper.core.redactions import LONGEST, kept
from innkeeper.core.times import Instant

_TAKEN = 2 * LONGEST + 1
_TRACEBACK_LINES = 60
_INSIDE = ("innkeeper.storage", "innkeeper.buses")
"""Loggers that tell of the server itself, whosever run it was that met them."""


class Line(NamedTuple):
    """What of a logged record the store will be told."""

    id: str
    created_at: int
    level: int
    logger: str
    message: str
    owner: Owner
    session_id: str | None
    run_id: str | None
    request_id: str | None
    exception: str | None
    traceback: list[str]


def line_of(record: logging.LogRecord, now: int, id: str, *, shows_errors: bool) -> Line:
    """The line of a record that was logged right now, in this context.

    What exceptions say may be meant for nobody but who runs the server: without `shows_errors` only their kind is told.
    """
    context = None if record.name.startswith(_INSIDE) else get_context()
    owner, session_id, run_id = NOBODY, None, None
    if context is not None and context.owner is not None:
        owner, session_id, run_id = context.owner, context.session_id, context.run_id
    error = record.exc_info[1] if record.exc_info else None
    return Line(
        id=id,
        created_at=now,
        level=record.levelno,
        logger=record.name[:256],
        message=_said(record, shows_errors=shows_errors)[:_TAKEN],
        owner=owner,
        session_id=session_id,
        run_id=run_id,
        request_id=get_request_id(),
        exception=None if error is None else type(error).__name__,
        traceback=_traceback_of(error) if shows_errors and error is not None else [],
    )


def _said(record: logging.LogRecord, *, shows_errors: bool) -> str:
    try:
        if shows_errors:
            return record.getMessage()
        said, args = str(_told(record.msg)), record.args
        if not args:
            return said
        if isinstance(args, tuple):
            return said % tuple(map(_told, args))
        return said % {name: _told(value) for name, value in args.items()}
    except Exception:  # noqa: BLE001 - anything at all: it is the arguments' own code
        return record.msg if isinstance(record.msg, str) else f"A record of {record.name} that has no text."


def _told(value: object) -> object:
    """An exception as its kind, unless its text is a sentence for users."""
    if isinstance(value, BaseException) and not isinstance(value, InnkeeperError):
        return type(value).__name__
    return value


def _traceback_of(error: BaseException) -> list[str]:
    try:
        return "".join(traceback.format_exception(error)).splitlines()[-_TRACEBACK_LINES:]
    except Exception:  # noqa: BLE001 - an exception whose own text raises
        return []


def record_of(line: Line) -> LogRecord:
    """The record that the store keeps of a line."""
    told: dict[str, object] = {"run_id": line.run_id, "exception": line.exception}
    metadata = {name: value for name, value in told.items() if value is not None}
    if line.traceback:
        metadata["traceback"] = [kept(one) for one in line.traceback]
    return LogRecord(
        id=line.id,
        owner=line.owner,
        source="server",
        level=Level(min(max(line.level // 10 * 10, Level.DEBUG), Level.CRITICAL)),
        logger=kept(line.logger),
        message=kept(line.message),
        created_at=Instant(line.created_at),
        session_id=line.session_id,
        request_id=line.request_id,
        metadata=metadata,
    )
