"""Objects: a run as a response object, with every field that clients look for.

The details of usage are zeros: their types demand numbers, and agents report totals only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from innkeeper.core.events import json_bytes
from innkeeper.core.runs import Run, RunError, RunStatus
from innkeeper.core.times import unix_seconds
from innkeeper.core.usage import Usage
from innkeeper.http.problems import run_error_facts

Json = dict[str, Any]
Status = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]

STATUSES: Mapping[RunStatus, Status] = {
    RunStatus.QUEUED: "queued",
    RunStatus.RUNNING: "in_progress",
    RunStatus.REQUIRES_ACTION: "completed",
    RunStatus.COMPLETED: "completed",
    RunStatus.FAILED: "failed",
    RunStatus.CANCELLED: "cancelled",
    RunStatus.INTERRUPTED: "failed",
}
"""A run that waits for people has said for now what it can; what it waits for is in its output."""

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a response is incomplete, by the reason for which the model stopped."""


class ResponseObject(BaseModel):
    """A response; its fields are OpenAI's. `conversation` is the session, if the response is stored."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


def response_id(run: Run) -> str:
    return "resp_" + run.id.removeprefix("run_")


def shown_usage(usage: Usage | None) -> Json | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def shown_metadata(metadata: Mapping[str, object]) -> Json:
    """Text alone, as the type demands; what other surfaces were given in other forms is told as JSON."""
    return {name: value if isinstance(value, str) else json_bytes(value).decode() for name, value in metadata.items()}


def shown_error(error: RunError) -> Json:
    """The error in the words that the type allows; its message is safe to show."""
    code = "rate_limit_exceeded" if error.code == "RATE_LIMITED" else "server_error"
    return {"code": code, "message": run_error_facts(error)["message"]}


def response(
    run: Run,
    status: Status,
    output: Sequence[Json] = (),
    *,
    usage: Usage | None = None,
    error: RunError | None = None,
    finish_reason: str | None = None,
    completed_at: int | None = None,
) -> Json:
    """The response object. What it tells of its request does not change while the run goes on."""
    asked: Mapping[str, Any] = run.request or {}
    is_stored = asked.get("store") is not False
    reason = INCOMPLETE.get(finish_reason or "") if status == "incomplete" else None
    shown: Json = {
        "id": response_id(run),
        "object": "response",
        "created_at": unix_seconds(run.created_at),
        "completed_at": completed_at,
        "status": status,
        "background": run.background,
        "error": None if error is None else shown_error(error),
        "incomplete_details": None if reason is None else {"reason": reason},
        "model": run.agent_name,
        "output": list(output),
        "usage": shown_usage(usage),
        "metadata": shown_metadata(run.metadata),
        "store": is_stored,
        **_wishes(asked),
    }
    if is_stored:
        shown["conversation"] = {"id": run.session_id}
    if asked.get("user") is not None:
        shown["user"] = asked["user"]
    return shown


_DEFAULTS: Mapping[str, Any] = {
    "instructions": None,
    "previous_response_id": None,
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "truncation": "disabled",
    "safety_identifier": None,
    "prompt_cache_key": None,
}


def _wishes(asked: Mapping[str, Any]) -> Json:
    shown = {name: asked.get(name, default) for name, default in _DEFAULTS.items()}
    tier = asked.get("service_tier")
    shown["service_tier"] = "default" if tier in (None, "auto") else tier
    shown["text"] = {"format": {"type": "text"}, **(asked.get("text") or {})}
    shown["reasoning"] = {"effort": None, "summary": None, **(asked.get("reasoning") or {})}
    shown["top_logprobs"] = 0
    return shown
