"""Chunks: what an agent yields that is neither text nor a stream, read as events.

Known are OpenAI's chat chunks, completions and messages, events of its Responses API and of its Agents
SDK, and the server's own events as dicts. Dicts and objects with the same attributes are read alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args
from uuid import uuid4

from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import (
    AgentEvent,
    FinishNoted,
    FinishReason,
    MessageInjected,
    ReasoningDelta,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.core.usage import Usage

_REASONS = get_args(FinishReason)
_TEXT_PARTS = ("text", "output_text", "input_text", "refusal")
_TEXT_EVENTS = ("response.output_text.delta", "response.refusal.delta")
_REASONING_EVENTS = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")


class ErrorChunk(AgentFailed):
    """What the agent yielded says that it has failed; `code` is the word it gave for it."""

    def __init__(self, error: object) -> None:
        told = value_of(error, "message") if not isinstance(error, str) else error
        super().__init__(str(told or "The agent yielded an error."))
        self.code = str(value_of(error, "code") or value_of(error, "type") or "agent_failed")


def value_of(item: object, name: str) -> object:
    """The field of a dict or the attribute of an object; `None` where there is none."""
    if isinstance(item, Mapping):
        return item.get(name)
    return getattr(item, name, None)


def text_of(content: object) -> str:
    """The text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    return "".join(
        part if isinstance(part, str) else str(value_of(part, "text") or value_of(part, "refusal") or "")
        for part in content
        if isinstance(part, str) or value_of(part, "type") in _TEXT_PARTS
    )


def usage_of(reported: object, model: object = None) -> Usage | None:
    """Tokens in OpenAI's names or in the server's; `None` where neither is given."""
    sent, said = (
        next((count for name in names if isinstance(count := value_of(reported, name), int)), None)
        for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
    )
    if sent is None and said is None:
        return None
    return Usage(sent or 0, said or 0, model if isinstance(model, str) and model else None)


def _json_text(arguments: object) -> str:
    if isinstance(arguments, str):
        return arguments
    return "{}" if arguments is None else json.dumps(arguments, ensure_ascii=False, default=str)


@dataclass(slots=True)
class _OpenCall:
    """A tool call of which more may come."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    is_client_side: bool = False


class ChunkReader:
    """Reads the chunks of one run: puts tool calls together and counts the usage of each completion once."""

    def __init__(self) -> None:
        self._open: dict[int, _OpenCall] = {}
        self._names: dict[str, str] = {}
        self._completion: object = None
        self._usage: Usage | None = None
        self._asked_client = False
        self._has_usage = False

    def read(self, item: object) -> list[AgentEvent] | None:
        """The events of one chunk, or `None` if it is none that is known.

        Raises: ErrorChunk.
        """
        if type(item) is dict and (content := self._plain_content(item)):
            return [TextDelta(content)]
        if isinstance(choices := value_of(item, "choices"), list | tuple):
            return list(self._read_completion(item, choices))
        kind = value_of(item, "type")
        if isinstance(kind, str):
            if (known := _READERS.get(kind)) and _has_any(item, known[0]):
                return [*self.flush(), *known[1](self, item)]
            if kind.startswith("response."):
                return [*self.flush(), *self._read_response_event(kind, item)]
        if not isinstance(item, Mapping):
            return None
        if _is_error(item):
            raise ErrorChunk(item["error"])
        if isinstance(item.get("role"), str) and ("content" in item or "tool_calls" in item):
            return [*self.flush(), *self._read_message(item), *self._close_calls()]
        return None

    def _plain_content(self, chunk: dict[str, Any]) -> str | None:
        """The content of a chunk that says nothing else, as nearly all do; the long way costs ten times as much."""
        match chunk.get("choices"):
            case [{"delta": {"content": str(content), **more}, "finish_reason": None, "index": 0}] if (
                not more and not chunk.get("usage") and chunk.get("id") == self._completion
            ):
                return content
        return None

    def flush(self) -> Iterator[AgentEvent]:
        """What only the end of the stream completes."""
        yield from self._close_calls()
        yield from self._report_usage()

    def _read_completion(self, chunk: object, choices: list[object] | tuple[object, ...]) -> Iterator[AgentEvent]:
        if _is_error(chunk):
            raise ErrorChunk(value_of(chunk, "error"))
        completion = value_of(chunk, "id")
        if completion != self._completion:
            yield from self.flush()
        self._completion = completion
        for choice in choices:
            if value_of(choice, "index") in (None, 0):
                yield from self._read_choice(choice)
        # Some providers repeat the count so far in every chunk of a completion: the last one is meant.
        usage = usage_of(value_of(chunk, "usage"), value_of(chunk, "model"))
        self._usage = usage or self._usage
        if completion is None:
            yield from self._report_usage()

    def _read_choice(self, choice: object) -> Iterator[AgentEvent]:
        message = value_of(choice, "delta") or value_of(choice, "message")
        if message is not None:
            yield from self._read_message(message)
        if (reason := value_of(choice, "finish_reason")) is not None:
            yield from self._close_calls()
            yield from self._finish(reason)

    def _read_message(self, message: object) -> Iterator[AgentEvent]:
        content = text_of(value_of(message, "content"))
        if value_of(message, "role") == "tool":
            yield self._returned(value_of(message, "tool_call_id"), value_of(message, "name"), content)
            return
        reasoning = value_of(message, "reasoning_content") or value_of(message, "reasoning")
        if isinstance(reasoning, str) and reasoning:
            yield ReasoningDelta(reasoning)
        if text := content or text_of(value_of(message, "refusal")):
            yield TextDelta(text)
        calls = value_of(message, "tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list | tuple) else ()):
            yield from self._read_call(position, call)

    def _read_call(self, position: int, call: object) -> Iterator[AgentEvent]:
        given = value_of(call, "index")
        index = given if isinstance(given, int) else position
        call_id, function = value_of(call, "id"), value_of(call, "function")
        known = self._open.get(index)
        if known is not None and call_id and known.id and call_id != known.id:
            yield from self._close_calls()
            known = None
        if known is None:
            known = self._open[index] = _OpenCall()
        known.id = str(call_id or known.id)
        known.name = known.name or str(value_of(function, "name") or "")
        known.is_client_side = known.is_client_side or bool(value_of(call, "client_side"))
        if arguments := value_of(function, "arguments"):
            known.arguments.append(_json_text(arguments))

    def _close_calls(self) -> Iterator[AgentEvent]:
        calls, self._open = self._open, {}
        for _, call in sorted(calls.items()):
            yield self._called(call.name, call.id, "".join(call.arguments), call.is_client_side)

    def _called(self, name: object, call_id: object, arguments: object, client_side: object) -> ToolCalled:
        known_id = str(call_id or f"call_{uuid4().hex}")
        self._names[known_id] = str(name or "")
        self._asked_client = self._asked_client or bool(client_side)
        return ToolCalled(self._names[known_id], known_id, _json_text(arguments) or "{}", bool(client_side))

    def _returned(
        self, call_id: object, name: object, result: object, error: object = None, duration: object = None
    ) -> ToolReturned:
        if not call_id:  # without an id it answers the latest call of that name
            call_id = next((known for known, called in reversed(self._names.items()) if called == name), "")
        known_name = str(name or self._names.get(str(call_id), ""))
        took = float(duration) if isinstance(duration, int | float) else None
        return ToolReturned(known_name, str(call_id), result, None if error is None else str(error), took)

    def _finish(self, reason: object) -> Iterator[AgentEvent]:
        reason = "tool_calls" if reason == "function_call" else reason
        # The model stopped for tools of the server's own: the run goes on, so this is not its end.
        if reason in _REASONS and (reason != "tool_calls" or self._asked_client):
            yield FinishNoted(cast("FinishReason", reason))

    def _read_response_event(self, kind: str, event: object) -> Iterator[AgentEvent]:
        delta = value_of(event, "delta")
        if kind in _TEXT_EVENTS and delta:
            yield TextDelta(str(delta))
        elif kind in _REASONING_EVENTS and delta:
            yield ReasoningDelta(str(delta))
        elif kind in ("response.completed", "response.incomplete"):
            response = value_of(event, "response")
            yield from self._report(usage_of(value_of(response, "usage"), value_of(response, "model")))
        elif kind == "response.failed":
            raise ErrorChunk(value_of(value_of(event, "response"), "error"))

    def _report_usage(self) -> Iterator[AgentEvent]:
        usage, self._usage = self._usage, None
        yield from self._report(usage)

    def _report(self, usage: Usage | None) -> Iterator[AgentEvent]:
        if usage is not None:
            self._has_usage = True
            yield UsageReported(usage)

    def _read_raw(self, event: object) -> Iterator[AgentEvent]:
        data = value_of(event, "data")
        kind = value_of(data, "type")
        if isinstance(kind, str):
            yield from self._read_response_event(kind, data)
        elif isinstance(delta := value_of(data, "delta"), str) and delta:
            yield TextDelta(delta)

    def _read_run_item(self, event: object) -> Iterator[AgentEvent]:
        item = value_of(event, "item")
        raw, kind = value_of(item, "raw_item"), value_of(item, "type")
        call_id = value_of(raw, "call_id") or value_of(raw, "id")
        if kind == "tool_call_item":
            name = value_of(item, "tool_name") or value_of(raw, "name") or value_of(raw, "type")
            yield self._called(name, call_id, value_of(raw, "arguments"), False)
        elif kind == "tool_call_output_item":
            yield self._returned(call_id, None, value_of(item, "output"))

    def _read_text(self, event: object) -> Iterator[AgentEvent]:
        if content := value_of(event, "content") or value_of(event, "text"):
            yield TextDelta(str(content))

    def _read_reasoning(self, event: object) -> Iterator[AgentEvent]:
        if content := value_of(event, "content") or value_of(event, "text"):
            yield ReasoningDelta(str(content))

    def _read_tool_call(self, event: object) -> Iterator[AgentEvent]:
        yield self._called(
            value_of(event, "tool_name"),
            value_of(event, "tool_call_id"),
            value_of(event, "arguments"),
            value_of(event, "client_side"),
        )

    def _read_tool_result(self, event: object) -> Iterator[AgentEvent]:
        names = ("tool_call_id", "tool_name", "result", "error", "duration_ms")
        yield self._returned(*(value_of(event, name) for name in names))

    def _read_step(self, event: object) -> Iterator[AgentEvent]:
        number, status = value_of(event, "step_number"), value_of(event, "status")
        if isinstance(number, int) and status in ("started", "completed"):
            yield StepChanged(number, status)

    def _read_injected(self, event: object) -> Iterator[AgentEvent]:
        yield MessageInjected(str(value_of(event, "content") or ""), str(value_of(event, "injection_id") or ""))

    def _read_usage(self, event: object) -> Iterator[AgentEvent]:
        yield from self._report(usage_of(event, value_of(event, "model")))

    def _read_finish(self, event: object) -> Iterator[AgentEvent]:
        yield from self._finish(value_of(event, "finish_reason"))

    def _read_done(self, event: object) -> Iterator[AgentEvent]:
        if value_of(event, "status") in ("failed", "cancelled", "interrupted"):
            raise ErrorChunk(f"The agent's own run ended as {value_of(event, 'status')}.")
        if not self._has_usage:
            yield from self._report(usage_of(value_of(event, "usage")))
        yield from self._finish(value_of(event, "finish_reason"))

    def _read_error(self, event: object) -> Iterator[AgentEvent]:
        raise ErrorChunk(value_of(event, "error") or event)

    def _skip(self, event: object) -> Iterator[AgentEvent]:
        yield from ()


def _is_error(item: object) -> bool:
    """OpenAI's form (`error` is an object with a message), or nothing but an `error`."""
    error = value_of(item, "error")
    if isinstance(error, Mapping):
        return True
    return isinstance(item, Mapping) and isinstance(error, str) and len(item) == 1


def _has_any(item: object, names: tuple[str, ...]) -> bool:
    return any(name in item if isinstance(item, Mapping) else hasattr(item, name) for name in names)


_ReadEvent = Callable[[ChunkReader, object], Iterator[AgentEvent]]

# What `type` says, with the fields of which one must be there: an agent's own JSON may have a `type` too.
_READERS: Mapping[str, tuple[tuple[str, ...], _ReadEvent]] = {
    "run": (("run_id",), ChunkReader._skip),
    "text": (("content", "text"), ChunkReader._read_text),
    "output_text": (("text",), ChunkReader._read_text),
    "reasoning": (("content", "text"), ChunkReader._read_reasoning),
    "tool_call": (("tool_name",), ChunkReader._read_tool_call),
    "tool_result": (("tool_call_id", "tool_name"), ChunkReader._read_tool_result),
    "step": (("step_number",), ChunkReader._read_step),
    "message_injected": (("injection_id",), ChunkReader._read_injected),
    "usage": (("input_tokens", "prompt_tokens"), ChunkReader._read_usage),
    "finish": (("finish_reason",), ChunkReader._read_finish),
    "error": (("error", "message"), ChunkReader._read_error),
    "done": (("type",), ChunkReader._read_done),
    "raw_response_event": (("data",), ChunkReader._read_raw),
    "run_item_stream_event": (("item",), ChunkReader._read_run_item),
    "agent_updated_stream_event": (("new_agent",), ChunkReader._skip),
}
