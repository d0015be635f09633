"""Chats: a turn of an agent in the server's own words, with messages that steer it while it works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from innkeeper_client import requests
from innkeeper_client.actions import Action
from innkeeper_client.requests import Request, given, segment
from innkeeper_client.runs import Usage

WhenBusy = Literal["queue", "reject", "interrupt", "steer"]


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What an agent answered; of a turn in the background, `status` is `queued` and the rest tells where to look.

    `status` is `requires_action` where the run waits for people to decide on `actions`.
    """

    agent_name: str
    session_id: str
    run_id: str
    output: str = ""
    steps: int = 0
    usage: Usage | None = None
    status: str = "completed"
    trace_id: str = ""
    actions: list[Action] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Injected:
    """`run_id` is the run that the message was accepted for, `None` if it waits for the next."""

    status: str
    injection_id: str
    run_id: str | None


@dataclass(frozen=True, slots=True)
class Injection:
    """A receipt: `accepted`, `delivered`, `deferred` to the next run, or `expired`."""

    id: str
    status: str
    run_id: str | None
    seq: int | None
    content: str
    created_at: datetime


def chat(
    input: str | Sequence[Mapping[str, Any]],
    agent_name: str | None = None,
    *,
    session_id: str | None = None,
    user_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    when_busy: WhenBusy | None = None,
    background: bool = False,
    webhook: str | None = None,
) -> Request[ChatAnswer]:
    """Send a message to an agent and get its answer; in the `background`, the run that will bring one."""
    return requests.post(
        "/chat",
        ChatAnswer,
        {
            **_turn(input, agent_name, session_id, user_id, metadata, when_busy),
            **given(background=background or None, webhook=webhook),
        },
    )


def streamed_chat(
    input: str | Sequence[Mapping[str, Any]],
    agent_name: str | None = None,
    *,
    session_id: str | None = None,
    user_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    when_busy: WhenBusy | None = None,
) -> Request[Any]:
    """The same as a stream of the run's events. A failure of the run is raised."""
    turn = _turn(input, agent_name, session_id, user_id, metadata, when_busy)
    return Request("POST", "/chat/stream", dict, body=turn)


def _turn(
    said: str | Sequence[Mapping[str, Any]],
    agent_name: str | None,
    session_id: str | None,
    user_id: str | None,
    metadata: Mapping[str, Any] | None,
    when_busy: WhenBusy | None,
) -> dict[str, Any]:
    return given(
        input=said if isinstance(said, str) else [dict(part) for part in said],
        agent_name=agent_name,
        session_id=session_id,
        user_id=user_id,
        metadata=None if metadata is None else dict(metadata),
        when_busy=when_busy,
    )


def inject(
    message: str,
    *,
    agent_name: str | None = None,
    session_id: str | None = None,
    run_id: str | None = None,
    user_id: str | None = None,
) -> Request[Injected]:
    """Give a run under way a message, which its agent sees before its next model call; else the next run gets it."""
    body = given(message=message, agent_name=agent_name, session_id=session_id, run_id=run_id, user_id=user_id)
    return requests.post("/inject", Injected, body)


def get_injection(injection_id: str) -> Request[Injection]:
    """What became of an injected message."""
    return requests.get(f"/injections/{segment(injection_id, 'injection_id')}", Injection)
