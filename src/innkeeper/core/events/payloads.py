"""The canonical JSON of events, one line each: what the log stores and native streams send. `reading` reads it."""

from __future__ import annotations

from collections.abc import Iterable
from json.encoder import encode_basestring
from typing import assert_never

from innkeeper.core.actions import Action, Answer
from innkeeper.core.events.kinds import (
    ActionRequired,
    ActionsAnswered,
    Event,
    FinishNoted,
    MessageInjected,
    Paused,
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
from innkeeper.core.json_texts import json_bytes, json_string, json_value
from innkeeper.core.usage import Usage


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


def shown_usage(usage: Usage | None) -> dict[str, int] | None:
    """Usage as native clients see it; `None` where the agent reported nothing."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def shown_action(action: Action) -> dict[str, object]:
    """An action as clients see it."""
    told = {"id": action.id, "kind": action.kind, "name": action.name}
    return {**told, "arguments": json_value(action.arguments)}


def _shown_answer(answer: Answer) -> dict[str, object]:
    told: dict[str, object] = {"id": answer.action_id, "decision": answer.decision}
    if answer.arguments is not None:
        told["arguments"] = json_value(answer.arguments)
    if answer.message is not None:
        told["message"] = answer.message
    if answer.value is not None:
        told["value"] = json_value(answer.value)
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
            return {**shown, "arguments": json_value(arguments), "client_side": is_client_side}
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
