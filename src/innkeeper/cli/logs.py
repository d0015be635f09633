"""Logs of a served process: one line an entry: time, level, message. What is logged decides who logs it.

Control characters are escaped, so that nobody's input can forge a line or steer a terminal.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from innkeeper.core.errors import SetupError

_LONGEST = 4096
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_QUIET: Mapping[str, int] = {
    "uvicorn.error": logging.WARNING,
    "uvicorn.asgi": logging.WARNING,
    "alembic": logging.WARNING,
    "asyncio": logging.WARNING,
    "watchfiles": logging.WARNING,
    "httpx": logging.WARNING,
    "httpx2": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpcore2": logging.WARNING,
}
"""What says more than people want to read, unless they debug."""


def configure(level: str, file: Path | None) -> None:
    """Log to standard error, or to `file`, whose folder is made.

    Raises: SetupError if the file cannot be written.
    """
    logging.basicConfig(level=level, handlers=[_handler(file)], force=True)
    logging.captureWarnings(True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least if level != "DEBUG" else logging.NOTSET)


def _handler(file: Path | None) -> logging.Handler:
    handler: logging.Handler
    try:
        if file is None:
            handler = _StandardError()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise SetupError(f"The log file {file} cannot be written: {error.strerror}.") from error
    handler.setFormatter(_Line("%(asctime)s %(levelname)-7s %(message)s"))
    return handler


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is now: while a progress bar moves, that is a place above the bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # logging keeps one for ever
        return sys.stderr


class _Line(logging.Formatter):
    """`2026-01-31 12:00:00.123 INFO    message`; a traceback follows on lines of its own."""

    default_msec_format = "%s.%03d"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        line = _CONTROL.sub(_escaped, super().formatMessage(record).rstrip())
        return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()
