"""Events: what happens in a run, in the order of the run's log. A union of frozen values.

`payload` is the one canonical encoding of an event: what the log stores and what native streams send. It is
fixed before the event gets its place in the log, so a replay is byte-equal to the live stream.
Invariant: a run's log begins with `RunStarted` and ends with exactly one `RunEnded`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring  # the C scanner: escapes what JSON demands and nothing else
from math import isfinite
from typing import Literal, assert_never, cast

from innkeeper.core.actions import Action, ActionKind, Answer, Decision
from innkeeper.core.usage import Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
EndStatus = Literal["completed", "failed", "cancelled", "interrupted"]


@dataclass(frozen=True, slots=True)
class RunStarted:
    run_id: str
    session_id: str
    agent_name: str


@dataclass(frozen=True, slots=True)
class RunResumed:
    """A process died, and another goes on. Text beyond the first `output_length` characters is void.

    `is_restart` says that the agent begins anew, so that nothing of what it had told before holds.
    """

    attempt: int
    output_length: int = 0
    is_restart: bool = False


@dataclass(frozen=True, slots=True)
class TextDelta:
    content: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    content: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """`arguments` is JSON text. `is_client_side` marks a call that the client answers in its next request."""

    tool_name: str
    tool_call_id: str
    arguments: str
    is_client_side: bool = False


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """Exactly one of `result` (any JSON value) and `error` is meant; `duration_ms` is wall time."""

    tool_name: str
    tool_call_id: str
    result: object = None
    error: str | None = None
    duration_ms: float | None = None


@dataclass(frozen=True, slots=True)
class StepChanged:
    """A step is one model call with the tools it asked for; numbers begin at 1."""

    step_number: int
    status: Literal["started", "completed"]


@dataclass(frozen=True, slots=True)
class MessageInjected:
    """A message that steers the run. One that `was_deferred` had waited for it, and came before its first word."""

    content: str
    injection_id: str
    was_deferred: bool = False


@dataclass(frozen=True, slots=True)
class UsageReported:
    """Tokens since the previous report; a run's usage is the sum of its reports."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class FinishNoted:
    """A runtime says why the model stopped; it is folded into `RunEnded` and never logged."""

    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Paused:
    """A runtime can go on only when these have been answered, from `state`; it ends after it. It is never logged."""

    actions: tuple[Action, ...]
    state: str


@dataclass(frozen=True, slots=True)
class ActionRequired:
    """The run is paused: its log goes on when all has been answered. `expires_at` is ISO 8601."""

    run_id: str
    actions: tuple[Action, ...]
    expires_at: str


@dataclass(frozen=True, slots=True)
class ActionsAnswered:
    """The run goes on."""

    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class RunFailed:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    run_id: str
    session_id: str
    status: EndStatus
    output: str
    usage: Usage | None
    finish_reason: FinishReason | None


AgentEvent = (
    TextDelta
    | ReasoningDelta
    | ToolCalled
    | ToolReturned
    | StepChanged
    | MessageInjected
    | UsageReported
    | FinishNoted
    | Paused
)
Event = RunStarted | RunResumed | AgentEvent | ActionRequired | ActionsAnswered | RunFailed | RunEnded


def json_string(text: str) -> bytes:
    """`text` as a JSON string literal in UTF-8; lone surrogates are escaped, so it never fails."""
    try:
        return encode_basestring(text).encode()
    except UnicodeEncodeError:
        return json.dumps(text).encode()


def payload(event: Event) -> bytes:
    """The canonical JSON of an event, one line."""
    if type(event) is TextDelta:
        return b'{"type":"text","content":' + json_string(event.content) + b"}"
    if type(event) is RunStarted:
        told = json_string(event.run_id), json_string(event.session_id), json_string(event.agent_name)
        return b'{"type":"run","run_id":%b,"session_id":%b,"agent_name":%b}' % told
    if type(event) is RunEnded:
        return _ended(event)
    return json_bytes(_shown(event))


_NEXT_TEXT = '}\n{"type":"text","content":'


def text_payloads(texts: Iterable[str]) -> bytes:
    """The payloads of a `TextDelta` for each of `texts`, joined by newlines; the texts are what UTF-8 can carry."""
    return ('{"type":"text","content":' + _NEXT_TEXT.join(map(encode_basestring, texts)) + "}").encode()


def _ended(event: RunEnded) -> bytes:
    usage = json_bytes(shown_usage(event.usage)) if event.usage is not None else b"null"
    reason = b'"%b"' % event.finish_reason.encode() if event.finish_reason else b"null"
    return (b'{"type":"done","run_id":%b,"session_id":%b,"status":"%b","output":%b,"usage":%b,"finish_reason":%b}') % (
        json_string(event.run_id),
        json_string(event.session_id),
        event.status.encode(),
        json_string(event.output),
        usage,
        reason,
    )


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str).encode
_encode_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=str).encode


def json_bytes(value: object) -> bytes:
    """Any value as JSON that every client can read; it never fails, because tools return what they like.

    Numbers that are not finite become null, keys become text, anything unknown becomes its text; what
    lies inside of itself, or too deep, or has no text, is cut off with an ellipsis.
    """
    try:
        text = _encode(value)
        return text.encode() if not _may_be_deep(text) else _encode_ascii(_plain(value, ())).encode()
    except UnicodeEncodeError:
        return _encode_ascii(value).encode()
    except Exception:  # noqa: BLE001 - texts of unknown values are made by code of others
        return _encode_ascii(_plain(value, ())).encode()


_MAX_DEPTH = 64
_MAX_BITS = 14_000
"""Python refuses to write longer numbers, and to read them."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _may_be_deep(text: str) -> bool:
    """Whether JSON may be nested deeper than others read it; brackets in its strings may make it seem so."""
    if text.count("[") + text.count("{") <= _MAX_DEPTH:
        return False
    left = text.encode(errors="replace").translate(None, _NO_BRACKETS)
    for _ in range(_MAX_DEPTH):
        left = left.replace(b"[]", b"").replace(b"{}", b"")
    return bool(left)


def _wording(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - it is code of others
        return "…"


def _plain(value: object, around: tuple[int, ...]) -> object:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= _MAX_BITS else "…"
    if not isinstance(value, dict | list | tuple):
        return _wording(value)
    if id(value) in around or len(around) >= _MAX_DEPTH:
        return "…"
    inside = (*around, id(value))
    if isinstance(value, dict):
        return {_wording(key): _plain(item, inside) for key, item in value.items()}
    return [_plain(item, inside) for item in value]


def shown_usage(usage: Usage | None) -> dict[str, int] | None:
    """Usage as native clients see it; `None` where the agent reported nothing."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def _arguments(text: str) -> object:
    """What JSON text says; text that says nothing that JSON could, as it is. Lone surrogates become U+FFFD."""
    try:
        told: object = json.loads(text, parse_constant=_refused) if text else {}
        if "\\u" not in text and text.isascii():
            return told
        return json.loads(scrubbed(json.dumps(told, ensure_ascii=False)))
    except (ValueError, RecursionError):
        return scrubbed(text)


def _refused(name: str) -> object:
    raise ValueError(f"JSON has no {name}")


def scrubbed(text: str) -> str:
    """Text that UTF-8 can carry: lone surrogates become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shown_action(action: Action) -> dict[str, object]:
    """An action as clients see it."""
    told = {"id": action.id, "kind": action.kind, "name": action.name}
    return {**told, "arguments": _arguments(action.arguments)}


def _shown_answer(answer: Answer) -> dict[str, object]:
    told: dict[str, object] = {"id": answer.action_id, "decision": answer.decision}
    if answer.arguments is not None:
        told["arguments"] = _arguments(answer.arguments)
    if answer.message is not None:
        told["message"] = answer.message
    if answer.value is not None:
        told["value"] = _arguments(answer.value)
    return told


def _shown(event: Event) -> dict[str, object]:  # one arm an event: long because the union is
    match event:
        case RunStarted(run_id, session_id, agent_name):
            return {"type": "run", "run_id": run_id, "session_id": session_id, "agent_name": agent_name}
        case RunResumed(attempt, output_length, is_restart):
            return {"type": "resumed", "attempt": attempt, "output_length": output_length, "restart": is_restart}
        case TextDelta(content):
            return {"type": "text", "content": content}
        case ReasoningDelta(content):
            return {"type": "reasoning", "content": content}
        case ToolCalled(name, call_id, arguments, is_client_side):
            shown = {"type": "tool_call", "tool_name": name, "tool_call_id": call_id}
            return {**shown, "arguments": _arguments(arguments), "client_side": is_client_side}
        case ToolReturned(name, call_id, result, error, duration_ms):
            shown = {"type": "tool_result", "tool_name": name, "tool_call_id": call_id}
            return {**shown, "result": result, "error": error, "duration_ms": duration_ms}
        case StepChanged(number, status):
            return {"type": "step", "step_number": number, "status": status}
        case MessageInjected(content, injection_id, was_deferred):
            told = {"type": "message_injected", "content": content, "injection_id": injection_id}
            return {**told, "deferred": True} if was_deferred else {**told}
        case UsageReported(usage):
            return {"type": "usage", **(shown_usage(usage) or {}), "model": usage.model}
        case FinishNoted(reason):
            return {"type": "finish", "finish_reason": reason}
        case Paused(actions, _):
            return {"type": "paused", "actions": [shown_action(action) for action in actions]}
        case ActionRequired(run_id, actions, expires_at):
            told = {"type": "requires_action", "run_id": run_id, "expires_at": expires_at}
            return {**told, "actions": [shown_action(action) for action in actions]}
        case ActionsAnswered(answers):
            return {"type": "action_answered", "answers": [_shown_answer(answer) for answer in answers]}
        case RunFailed(code, message):
            return {"type": "error", "error": {"code": code, "message": message}}
        case RunEnded(run_id, session_id, status, output, usage, finish_reason):
            return {
                "type": "done",
                "run_id": run_id,
                "session_id": session_id,
                "status": status,
                "output": output,
                "usage": shown_usage(usage),
                "finish_reason": finish_reason,
            }
        case _:
            assert_never(event)


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
