"""Messages: what is said in a conversation, and the forms in which it may be given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class MessageRole(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    DEVELOPER = "developer"


@dataclass(slots=True)
class Message:
    """One message. `tool_calls` are an assistant's, `tool_call_id` is the call that a tool's message answers."""

    role: MessageRole
    content: str = ""
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it is sent."""
        told: dict[str, Any] = {"role": MessageRole(self.role).value, "content": self.content}
        more = {"name": self.name, "tool_calls": self.tool_calls, "tool_call_id": self.tool_call_id}
        return {**told, **{name: value for name, value in more.items() if value is not None}}


MessageLike = Message | Mapping[str, Any] | str
"""A `Message`, a dictionary as the API has it, or a string that the user says."""


def as_dict(message: MessageLike) -> dict[str, Any]:
    """As it is sent.

    Raises: TypeError for anything that is no message.
    """
    if isinstance(message, str):
        return {"role": "user", "content": message}
    if isinstance(message, Message):
        return message.to_dict()
    if isinstance(message, Mapping):
        return dict(message)
    raise TypeError(f"messages: a Message, a dictionary or a string is expected, not {type(message).__name__}")


def as_dicts(messages: Iterable[MessageLike]) -> list[dict[str, Any]]:
    if isinstance(messages, str | Mapping | Message):
        raise TypeError("messages: a list is expected")
    return [as_dict(message) for message in messages]
