"""Recordings: a run that has ended as one JSON document, for tests that play it again.

`docs/testing.md` has its fields. What looks like a credential is replaced by `***`, in texts and under keys that name
one. Text that was streamed in pieces is joined where only the whole shows that it holds one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from innkeeper.core.events import shown_usage
from innkeeper.core.messages import Message
from innkeeper.core.redactions import without_secrets
from innkeeper.core.runs import Parameters, Run, given_of
from innkeeper.core.times import isoformat

FORMAT = "innkeeper.run"
VERSION = 1

_JOINED = ("text", "reasoning")


def recording_of(
    run: Run, messages: Sequence[Message], parameters: Parameters | None, log: Sequence[bytes]
) -> dict[str, Any]:
    """`messages` is the conversation that the agent was given, and `log` the payloads of the run's events.

    `parameters` are `None` where the request asked nothing of the model.
    """
    told = {
        "format": FORMAT,
        "version": VERSION,
        "run_id": run.id,
        "agent_name": run.agent_name,
        "session_id": run.session_id,
        "status": run.status.value,
        "created_at": isoformat(run.created_at),
        "ended_at": None if run.ended_at is None else isoformat(run.ended_at),
        "messages": [_shown(message) for message in messages],
        "input": [_shown(message) for message in run.input],
        "parameters": None if parameters is None else given_of(parameters),
        "events": _whole_secrets([json.loads(payload) for payload in log]),
        "output": run.output,
        "usage": shown_usage(run.usage),
        "finish_reason": run.finish_reason,
        "error": None if run.error is None else {"code": run.error.code, "message": run.error.message},
    }
    cleaned: dict[str, Any] = redacted(told)
    return cleaned


def redacted(value: Any) -> Any:
    """The value without what looks like a credential."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {name: _beside(name, redacted(one)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(one) for one in value]
    return value


def _beside(name: str, value: Any) -> Any:
    """The value under a key, which may say that it is a credential."""
    if isinstance(value, str) and value and without_secrets(f"{name}={value}") != f"{name}={value}":
        return "***"
    return value


def _shown(message: Message) -> dict[str, object]:
    shown = message.as_dict()
    return {**shown, "internal": True} if message.is_internal else shown


def _whole_secrets(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events, with neighbours of one kind joined where a credential reaches over several."""
    found: list[dict[str, Any]] = []
    for kind, run in groupby(events, key=lambda event: event["type"]):
        neighbours = list(run)
        if kind in _JOINED:
            whole = "".join(event["content"] for event in neighbours)
            if "".join(without_secrets(event["content"]) for event in neighbours) != without_secrets(whole):
                neighbours = [{**neighbours[0], "content": whole}]
        found += neighbours
    return found
