"""Events read again from the log; the inverse of `payloads`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Literal, cast

from innkeeper.core.actions import Action, ActionKind, Answer, Decision
from innkeeper.core.events.kinds import (
    ActionRequired,
    ActionsAnswered,
    EndStatus,
    Event,
    FinishReason,
    MessageInjected,
    ReasoningDelta,
    RunEnded,
    RunFailed,
    RunResumed,
    RunStarted,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.core.usage import Usage

_decode = json.JSONDecoder().decode


def read(data: bytes) -> Event:
    """The event that `payload` encoded.

    Raises: ValueError if the bytes are not such a payload.
    """
    raw = _decode(data.decode())
    reader = _READERS.get(raw.get("type"))
    if reader is None:
        raise ValueError(f"not an event: {data[:80]!r}")
    return reader(raw)


Raw = Mapping[str, object]


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _usage_of(raw: Raw) -> Usage:
    return Usage(
        cast("int", raw["input_tokens"]),
        cast("int", raw["output_tokens"]),
        cast("str | None", raw.get("model")),
    )


def _read_end(raw: Raw) -> RunEnded:
    usage = cast("Raw | None", raw["usage"])
    return RunEnded(
        run_id=str(raw["run_id"]),
        session_id=str(raw["session_id"]),
        status=cast("EndStatus", raw["status"]),
        output=str(raw["output"]),
        usage=None if usage is None else _usage_of(usage),
        finish_reason=cast("FinishReason | None", raw["finish_reason"]),
    )


def _read_tool_result(raw: Raw) -> ToolReturned:
    return ToolReturned(
        str(raw["tool_name"]),
        str(raw["tool_call_id"]),
        raw.get("result"),
        cast("str | None", raw.get("error")),
        cast("float | None", raw.get("duration_ms")),
    )


def _read_action(raw: Raw) -> Action:
    return Action(str(raw["id"]), cast("ActionKind", raw["kind"]), str(raw["name"]), _text_of(raw["arguments"]))


def _read_answer(raw: Raw) -> Answer:
    return Answer(
        action_id=str(raw["id"]),
        decision=cast("Decision", raw["decision"]),
        arguments=None if "arguments" not in raw else _text_of(raw["arguments"]),
        message=cast("str | None", raw.get("message")),
        value=None if "value" not in raw else json.dumps(raw["value"]),
    )


def _read_requirement(raw: Raw) -> ActionRequired:
    actions = cast("list[Raw]", raw["actions"])
    return ActionRequired(str(raw["run_id"]), tuple(map(_read_action, actions)), str(raw["expires_at"]))


def _read_failure(raw: Raw) -> RunFailed:
    error = cast("Mapping[str, str]", raw["error"])
    return RunFailed(error["code"], error["message"])


_READERS: dict[object, Callable[[Raw], Event]] = {
    "run": lambda raw: RunStarted(str(raw["run_id"]), str(raw["session_id"]), str(raw["agent_name"])),
    "resumed": lambda raw: RunResumed(
        cast("int", raw["attempt"]), cast("int", raw["output_length"]), bool(raw["restart"])
    ),
    "text": lambda raw: TextDelta(str(raw["content"])),
    "reasoning": lambda raw: ReasoningDelta(str(raw["content"])),
    "tool_call": lambda raw: ToolCalled(
        str(raw["tool_name"]),
        str(raw["tool_call_id"]),
        _text_of(raw["arguments"]),
        bool(raw.get("client_side")),
    ),
    "tool_result": _read_tool_result,
    "step": lambda raw: StepChanged(
        cast("int", raw["step_number"]), cast("Literal['started', 'completed']", raw["status"])
    ),
    "message_injected": lambda raw: MessageInjected(
        str(raw["content"]), str(raw["injection_id"]), bool(raw.get("deferred"))
    ),
    "usage": lambda raw: UsageReported(_usage_of(raw)),
    "requires_action": _read_requirement,
    "action_answered": lambda raw: ActionsAnswered(tuple(map(_read_answer, cast("list[Raw]", raw["answers"])))),
    "error": _read_failure,
    "done": _read_end,
}
