"""Runs: what agents did and do, and the log of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from innkeeper_client import requests
from innkeeper_client.actions import Action
from innkeeper_client.requests import Request, Work, given, segment

WAIT_SECONDS = 20.0
"""For how long one request waits for the end of something."""
ENDED = frozenset({"completed", "failed", "cancelled", "interrupted"})


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a run."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class RunError:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run: `queued`, `running`, `requires_action`, or, once it has ended, `completed`, `failed`, `cancelled` or
    `interrupted`. `actions` are what it waits for.
    """

    id: str
    agent_name: str
    session_id: str
    status: str
    user_id: str = ""
    input: list[dict[str, Any]] = field(default_factory=list)
    output: str | None = None
    usage: Usage | None = None
    error: RunError | None = None
    finish_reason: str | None = None
    steps: int = 0
    background: bool = False
    attempt: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)
    trace_id: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    actions: list[Action] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class RunList:
    """Newest first."""

    runs: list[Run]
    has_more: bool = False


def list_runs(
    session_id: str | None = None,
    agent_name: str | None = None,
    status: str | None = None,
    limit: int = 50,
    after: str | None = None,
) -> Request[RunList]:
    """Your runs, newest first; `after` is the id of the last run of the page before."""
    return requests.get(
        "/runs", RunList, session_id=session_id, agent_name=agent_name, status=status, limit=limit, after=after
    )


def get_run(run_id: str, wait: float | None = None) -> Request[Run]:
    """A run; with `wait`, once it has ended or so many seconds are over, 60 at most."""
    return requests.get(path_of(run_id), Run, patience=wait or 0.0, wait=wait)


def wait_for_run(run_id: str, timeout: float | None = None) -> Work[Run]:
    """A run, once it has ended or asks for a decision; as it is then, if `timeout` seconds are over before."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = WAIT_SECONDS if deadline is None else min(WAIT_SECONDS, deadline - time.monotonic())
        run: Run = yield get_run(run_id, round(left, 3) if left > 0 else None)
        if run.has_ended or run.status == "requires_action" or left <= 0:
            return run


def cancel_run(run_id: str) -> Request[Run]:
    """Ask a run to end; what it has said is kept. One that has ended stays as it is."""
    return requests.post(f"{path_of(run_id)}/cancel", Run)


def resume_run(
    run_id: str,
    answers: Sequence[Mapping[str, Any]] | None = None,
    *,
    decision: Literal["approve", "deny"] | None = None,
    message: str | None = None,
) -> Request[Run]:
    """Decide what a run waits for, which then goes on: `wait` for it, or follow its `events`.

    `answers` are `{"id", "decision", "arguments", "message", "value"}`, one for each action; or one `decision` for all.
    """
    body = {**_decisions(answers, decision, message), "background": True}
    return requests.post(f"{path_of(run_id)}/resume", Run, body)


def resumed_stream(
    run_id: str,
    answers: Sequence[Mapping[str, Any]] | None = None,
    *,
    decision: Literal["approve", "deny"] | None = None,
    message: str | None = None,
) -> Request[Any]:
    """The same as a stream of what the run does then."""
    body = {**_decisions(answers, decision, message), "stream": True}
    return Request("POST", f"{path_of(run_id)}/resume", dict, body=body)


def _decisions(
    answers: Sequence[Mapping[str, Any]] | None, decision: str | None, message: str | None
) -> dict[str, Any]:
    listed = None if answers is None else [dict(answer) for answer in answers]
    return given(answers=listed, decision=decision, message=message)


def path_of(run_id: str) -> str:
    return f"/runs/{segment(run_id, 'run_id')}"
