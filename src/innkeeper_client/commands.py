"""Commands: what is asked of the handlers of a session."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from innkeeper_client import requests
from innkeeper_client.requests import Request, Work, segment
from innkeeper_client.runs import WAIT_SECONDS

_OPEN = frozenset({"queued", "executing"})


@dataclass(frozen=True, slots=True)
class CommandFailure:
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Command:
    """A command. `status` is `queued`, `executing`, `completed`, `failed`, `cancelled` or `timeout`."""

    command_id: str
    session_id: str
    command_type: str
    status: str
    result: Any = None
    error: CommandFailure | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    trace_id: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def has_ended(self) -> bool:
        return self.status not in _OPEN


@dataclass(frozen=True, slots=True)
class CommandBatch:
    """In order."""

    commands: list[Command]


def send_command(
    session_id: str,
    command_type: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    wait: float | None = None,
) -> Request[Command]:
    """Have a command executed; with `wait`, its end is awaited for so many seconds, 60 at most."""
    body = {"command_type": command_type, "parameters": dict(parameters or {}), "metadata": dict(metadata or {})}
    return requests.post(_path(session_id), Command, body, patience=wait or 0.0, wait=wait)


def send_batch(
    session_id: str, commands: Iterable[Mapping[str, Any]], *, sequential: bool = False
) -> Request[CommandBatch]:
    """Have up to 1,000 commands executed, side by side or one after the other: `{"command_type", "parameters", …}`."""
    body = {"commands": [dict(command) for command in commands], "sequential": sequential}
    return requests.post(f"{_path(session_id)}/batch", CommandBatch, body)


def get_command(session_id: str, command_id: str, wait: float | None = None) -> Request[Command]:
    """A command and its result; with `wait`, once it has ended or so many seconds are over, 60 at most."""
    return requests.get(_path(session_id, command_id), Command, patience=wait or 0.0, wait=wait)


def wait_for_command(session_id: str, command_id: str, timeout: float | None = None) -> Work[Command]:
    """A command, once it has ended; as it is then, if `timeout` seconds are over before."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = WAIT_SECONDS if deadline is None else min(WAIT_SECONDS, deadline - time.monotonic())
        command: Command = yield get_command(session_id, command_id, round(left, 3) if left > 0 else None)
        if command.has_ended or left <= 0:
            return command


def cancel_command(session_id: str, command_id: str) -> Request[Command]:
    """Ask a command to end. One that has ended stays as it is."""
    return requests.post(f"{_path(session_id, command_id)}/cancel", Command)


def _path(session_id: str, command_id: str | None = None) -> str:
    path = f"/api/sessions/{segment(session_id, 'session_id')}/commands"
    return path if command_id is None else f"{path}/{segment(command_id, 'command_id')}"
