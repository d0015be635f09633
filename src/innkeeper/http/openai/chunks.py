"""Chunks: a run's log as chat completion chunks, and its end as a chat completion.

Id and time are the run's own, so that encoding the same log again gives the same bytes. Text frames are cut
out of the stored payloads without parsing them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from innkeeper.core.actions import Action
from innkeeper.core.changes import Segment
from innkeeper.core.events import (
    ActionRequired,
    ReasoningDelta,
    RunEnded,
    RunFailed,
    ToolCalled,
    json_string,
    read,
    shown_action,
)
from innkeeper.core.runs import Run, RunError
from innkeeper.core.times import unix_seconds
from innkeeper.core.usage import Usage
from innkeeper.http.problems import run_error_facts
from innkeeper.services.tails import Ending

_dumps = msgspec.json.encode
_TEXT_HEAD = b'{"type":"text","content":'
_AFTER_HEAD = len(_TEXT_HEAD)
_NEXT_TEXT = b"}\n" + _TEXT_HEAD
DONE = b"data: [DONE]\n\n"


def completion_id(run: Run) -> str:
    return "chatcmpl-" + run.id.removeprefix("run_")


def shown_usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def completion(run: Run, ending: Ending) -> bytes:
    """The whole answer, for a request that does not stream."""
    message: dict[str, Any] = {"role": "assistant", "content": ending.output, "refusal": None}
    if ending.reasoning:
        message["reasoning_content"] = ending.reasoning
    if ending.tool_calls:
        message["content"] = ending.output or None
        message["tool_calls"] = [use.as_dict() for use in ending.tool_calls]
    body: dict[str, Any] = {
        "id": completion_id(run),
        "object": "chat.completion",
        "created": unix_seconds(run.created_at),
        "model": run.agent_name,
        "system_fingerprint": run.session_id,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": ending.finish_reason or "stop",
            }
        ],
    }
    if ending.usage is not None:
        body["usage"] = shown_usage(ending.usage)
    if ending.status == "requires_action":
        body |= _waiting(run.id, ending.actions)
    return _dumps(body)


class ChunkEncoder:
    """Encodes one run's log for one reader; call it with segments in order. Who `joins_late` misses its beginning."""

    def __init__(self, run: Run, *, include_usage: bool = False, joins_late: bool = False) -> None:
        head = {
            "id": completion_id(run),
            "object": "chat.completion.chunk",
            "created": unix_seconds(run.created_at),
            "model": run.agent_name,
            "system_fingerprint": run.session_id,
        }
        self._head = b"data: " + _dumps(head)[:-1]
        self._text_head = self._head + b',"choices":[{"index":0,"delta":{"content":'
        self._text_tail = b'},"logprobs":null,"finish_reason":null}]}\n\n'
        self._include_usage = include_usage
        self._calls = 0
        self._before = self._head + _OPENING if joins_late else b""

    def __call__(self, batch: list[Segment]) -> bytes:
        before, self._before = self._before, b""
        return before + b"".join([self._segment(segment) for segment in batch])

    def _segment(self, segment: Segment) -> bytes:
        """A segment that is all text, but for its last event at most, is taken apart and joined anew at once."""
        data, last = segment.data, b""
        texts = data[_AFTER_HEAD:].split(_NEXT_TEXT) if data.startswith(_TEXT_HEAD) else []
        if len(texts) == segment.count:
            texts[-1] = texts[-1][:-1]
        elif texts and len(texts) == segment.count - 1 and b"\n" in texts[-1]:
            texts[-1], _, last = texts[-1].rpartition(b"}\n")
        else:
            return b"".join([self._frame(one) for one in data.split(b"\n")])
        joined = (self._text_tail + self._text_head).join(texts)
        return b"".join((self._text_head, joined, self._text_tail, self._other(last) if last else b""))

    def _frame(self, data: bytes) -> bytes:
        if data.startswith(_TEXT_HEAD):
            return self._text_head + data[_AFTER_HEAD:-1] + self._text_tail
        return self._other(data)

    def _other(self, data: bytes) -> bytes:
        if data.startswith(_RUN_HEAD):
            return self._head + _OPENING
        match read(data):
            case ReasoningDelta(content):
                quoted = json_string(content)
                return self._head + (b',"choices":[{"index":0,"delta":{"reasoning_content":' + quoted + self._text_tail)
            case ToolCalled() as call if call.is_client_side:
                return self._tool_call(call)
            case RunFailed(code, message):
                return error_frame(run_error_facts(RunError(code, message)))
            case RunEnded() as end:
                return self._end(end)
            case ActionRequired(run_id, actions, expires_at):
                return self._pause(run_id, actions, expires_at)
            case _:
                return b""

    def _delta(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        return self._head + _choice(delta, finish_reason)

    def _tool_call(self, call: ToolCalled) -> bytes:
        use = {
            "index": self._calls,
            "id": call.tool_call_id,
            "type": "function",
            "function": {"name": call.tool_name, "arguments": call.arguments},
        }
        self._calls += 1
        return self._delta({"tool_calls": [use]})

    def _end(self, end: RunEnded) -> bytes:
        if end.status == "cancelled":
            return error_frame(run_error_facts(RunError("CANCELLED", "The run was cancelled."))) + DONE
        if end.status != "completed":
            return DONE
        frames = self._delta({}, end.finish_reason or "stop")
        if self._include_usage and end.usage is not None:
            frames += self._head + b',"choices":[],"usage":' + _dumps(shown_usage(end.usage)) + b"}\n\n"
        return frames + DONE

    def _pause(self, run_id: str, actions: tuple[Action, ...], expires_at: str) -> bytes:
        """The run waits for people: the answer so far is all there is, for now."""
        told = _dumps({**_waiting(run_id, actions), "expires_at": expires_at})
        return self._head + b"," + told[1:-1] + _choice({}, "stop") + DONE


def _waiting(run_id: str, actions: tuple[Action, ...]) -> dict[str, Any]:
    """What stands beside a completion that may go on: only clients who know of it look at it."""
    shown = [shown_action(action) for action in actions]
    return {"status": "requires_action", "run_id": run_id, "actions": shown}


def _choice(delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
    """What follows the head in a frame with one choice."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return b',"choices":' + _dumps([choice]) + b"}\n\n"


_RUN_HEAD = b'{"type":"run",'
_OPENING = _choice({"role": "assistant", "content": ""})


def error_frame(error: Mapping[str, Any]) -> bytes:
    return b"data: " + _dumps({"error": error}) + b"\n\n"
