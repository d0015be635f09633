"""Command outcomes: what is told of how a command or a reaction ended, within bounds, and of exceptions what may be."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping

from innkeeper.core.commands import Command, CommandError, CommandStatus
from innkeeper.core.errors import CommandFailed, InnkeeperError
from innkeeper.core.events import json_bytes
from innkeeper.core.session_events import HANDLER_FAILED, Note
from innkeeper.core.times import Instant

_logger = logging.getLogger(__name__)

Ending = tuple[CommandStatus, object, CommandError | None]
"""The status, what was returned, and why it failed."""

MAX_RESULT = 1024 * 1024
"""Bytes of JSON that a command may answer with."""
_MAX_MESSAGE, _MAX_DETAILS = 4096, 64 * 1024
"""Characters, and bytes of JSON, that a failure may say."""

INTERRUPTED = CommandError(
    "COMMAND_EXECUTION_FAILED",
    "The server stopped while this was executed; what it did is not known.",
    {"reason": "interrupted"},
)


def told_of(command: Command, failure: BaseException, *, shows_errors: bool) -> CommandError:
    """What a caller may know of an exception: the text of what was meant for callers, or of code of its own."""
    if isinstance(failure, CommandFailed):
        return failed(failure.message, failure.details)
    if isinstance(failure, InnkeeperError):
        return failed(failure.message, {"param": failure.param})
    _logger.error("the handler of %s %s failed", command.command_type, command.id, exc_info=failure)
    if shows_errors:
        return failed("".join(traceback.format_exception_only(failure)).strip())
    return failed("The handler failed. The server's log has the reason.")


def timed_out(command: Command) -> Ending:
    """The end of a command that took too long."""
    seconds = f"{command.timeout:g} seconds"
    return CommandStatus.TIMEOUT, None, CommandError("COMMAND_TIMEOUT", f"It did not end within {seconds}.")


def notes_of(command: Command, error: CommandError | None, now: Instant) -> tuple[Note, ...]:
    """What the session's log tells of a reaction that failed, beside what it tells of each command."""
    if command.kind != "reaction" or error is None:
        return ()
    told = {
        "event_id": command.parameters.get("event_id"),
        "event_type": command.command_type,
        "handler": command.handler,
        "error": {"code": error.code, "message": error.message},
    }
    return (Note(HANDLER_FAILED, now, told),)


def failed(message: str, details: Mapping[str, object] | None = None) -> CommandError:
    """A failure, as much of it as is kept."""
    told = details or {}
    told = told if len(json_bytes(told)) <= _MAX_DETAILS else {"limit": "details"}
    return CommandError("COMMAND_EXECUTION_FAILED", message[:_MAX_MESSAGE], told)


def completed(result: object) -> Ending:
    """The end of a command whose handler returned `result`."""
    if len(json_bytes(result)) > MAX_RESULT:
        message = f"The result exceeds {MAX_RESULT // 1024} KiB of JSON."
        return CommandStatus.FAILED, None, CommandError("COMMAND_EXECUTION_FAILED", message, {"limit": "result"})
    return CommandStatus.COMPLETED, result, None
