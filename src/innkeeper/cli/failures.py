"""Failures: how a command that cannot go on says so: one line, and a traceback only for those who debug."""

from __future__ import annotations

import sys
import traceback

from innkeeper.core.errors import InnkeeperError

FAILED, INTERRUPTED = 1, 130


def tell(error: InnkeeperError, *, debug: bool = False) -> int:
    """Print `Error: …` on standard error; returns the exit code."""
    print(text(error, debug=debug), file=sys.stderr, flush=True)
    return FAILED


def text(error: InnkeeperError, *, debug: bool = False) -> str:
    """What `tell` prints."""
    trace = "".join(traceback.format_exception(error)) if debug else ""
    return f"{trace}Error: {error.message}"
