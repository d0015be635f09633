"""Messages between the server's conversation and LangChain: both ways, and what a model's message says of itself.

Importing this module imports `langchain_core`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from pydantic_core import PydanticSerializationError, to_json

from innkeeper.core.events import FinishReason
from innkeeper.core.json_texts import json_bytes
from innkeeper.core.messages import Content, Message, ToolUse
from innkeeper.core.usage import Usage

_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "MAX_TOKENS": "length",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "SAFETY": "content_filter",
}
"""Of what providers call the reason for which a model stopped, those that tell a client something."""


def converse(messages: Sequence[Message]) -> list[AnyMessage]:
    """The conversation as LangChain's messages, each with an id; calls that nobody answered and answers to no call are
    left out. A result follows its call, whatever was said between the two.
    """
    results: dict[str | None, list[str]] = {use.id: [] for message in messages for use in message.tool_calls}
    for message in messages:
        if message.role == "tool" and message.tool_call_id in results:
            results[message.tool_call_id].append(message.text)
    return [told for message in messages for told in _told(message, results)]


def _told(message: Message, results: dict[str | None, list[str]]) -> Iterator[AnyMessage]:
    match message.role:
        case "system" | "developer":
            yield SystemMessage(message.text, id=_new_id())
        case "user":
            yield HumanMessage(_content(message.content), id=_new_id(), name=message.name)
        case "assistant":
            calls = [(use, results[use.id].pop(0)) for use in message.tool_calls if results[use.id]]
            if calls or message.text:
                yield AIMessage(message.text, id=_new_id(), tool_calls=[_call(use) for use, _ in calls])
            for use, result in calls:
                yield ToolMessage(result, tool_call_id=use.id, name=use.name, id=_new_id())


def said(text: str) -> HumanMessage:
    """A user's message that was injected."""
    return HumanMessage(text, id=_new_id())


def _new_id() -> str:
    return str(uuid4())


def _content(content: Content) -> Any:
    if not isinstance(content, tuple):
        return content or ""
    return [dict(part) for part in content]  # parts in OpenAI's form are a form of LangChain's


def _call(use: ToolUse) -> ToolCall:
    try:
        arguments = json.loads(use.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    return ToolCall(name=use.name, args=arguments if isinstance(arguments, dict) else {}, id=use.id)


def text_of(message: BaseMessage) -> str:
    """What a message says, without its reasoning."""
    return message.content if isinstance(message.content, str) else str(message.text)


def reasoning_of(message: BaseMessage) -> str:
    """What a model thought before it said that, in whichever form its provider tells it."""
    if isinstance(message.content, str) and not message.additional_kwargs:
        return ""
    blocks = cast("list[dict[str, Any]]", message.content_blocks)
    return "".join(str(block.get("reasoning") or "") for block in blocks if block.get("type") == "reasoning")


def usage_of(message: AIMessage, asked: str | None) -> Usage | None:
    """The tokens that the provider counted; `asked` is the model's name where the answer has none."""
    counted = message.usage_metadata
    if counted is None:
        return None
    told = message.response_metadata
    model = told.get("model_name") or told.get("model") or asked
    return Usage(counted["input_tokens"], counted["output_tokens"], str(model) if model else None)


def reason_of(message: AIMessage) -> FinishReason | None:
    """Why the model stopped, where it is not that it had come to an end."""
    told = message.response_metadata
    return _REASONS.get(str(told.get("finish_reason") or told.get("stop_reason") or told.get("done_reason")))


def open_calls(messages: Sequence[object]) -> list[ToolCall]:
    """The calls of tools that have no result yet."""
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    calls = [call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls]
    return [call for call in calls if call["id"] not in answered]


def messages_in(value: object) -> list[BaseMessage]:
    """The messages of a node's update: of what it writes as `messages`, or all that it writes."""
    if isinstance(value, BaseMessage):
        return [value]
    if isinstance(value, dict):
        return messages_in(value.get("messages"))
    if isinstance(value, list | tuple):
        return [message for one in value for message in messages_in(one)]
    held = getattr(value, "messages", None)
    return [] if held is None else messages_in(held)


def json_text(value: object) -> str:
    """Any value as JSON; what JSON does not know becomes its text."""
    try:
        return to_json(value, fallback=str, inf_nan_mode="null").decode()
    except PydanticSerializationError:  # it is no Unicode, or lies too deep, or inside of itself
        return json_bytes(value).decode()
