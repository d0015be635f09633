"""Messages: what a conversation consists of, in the shape of OpenAI's chat messages.

A message is normalised once, at the edge: parts that are all text become one string, joined by newlines.
Invariant: values only; how a framework wants its history is that runtime's affair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

MessageRole = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: frozenset[str] = frozenset(get_args(MessageRole))
Part = Mapping[str, object]
Content = str | tuple[Part, ...] | None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call inside an assistant's message; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str

    def as_dict(self) -> dict[str, object]:
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `is_internal` marks tool traffic of the server's own that clients never see."""

    role: MessageRole
    content: Content
    tool_calls: tuple[ToolUse, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    is_internal: bool = False

    @property
    def text(self) -> str:
        """The text of the content; parts of other kinds are left out."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(part["text"]) for part in self.content or () if part.get("type") == "text")

    @property
    def is_instruction(self) -> bool:
        return self.role in ("system", "developer")

    def as_dict(self) -> dict[str, object]:
        """The message as function agents and OpenAI clients know it."""
        content = self.content
        shown: dict[str, object] = {
            "role": self.role,
            "content": [dict(part) for part in content] if isinstance(content, tuple) else content,
        }
        if self.name is not None:
            shown["name"] = self.name
        if self.tool_calls:
            shown["tool_calls"] = [use.as_dict() for use in self.tool_calls]
        if self.tool_call_id is not None:
            shown["tool_call_id"] = self.tool_call_id
        return shown


def from_dict(raw: Mapping[str, object], *, is_internal: bool = False) -> Message:
    """The inverse of `Message.as_dict`, for trusted rows of the store."""
    content = raw.get("content")
    return Message(
        role=cast("MessageRole", raw["role"]),
        content=normalise(cast("str | list[Part] | None", content)),
        tool_calls=tuple(_tool_use(use) for use in cast("list[Mapping[str, object]]", raw.get("tool_calls") or ())),
        tool_call_id=cast("str | None", raw.get("tool_call_id")),
        name=cast("str | None", raw.get("name")),
        is_internal=is_internal,
    )


def _tool_use(raw: Mapping[str, object]) -> ToolUse:
    function = cast("Mapping[str, str]", raw["function"])
    return ToolUse(id=cast("str", raw["id"]), name=function["name"], arguments=function["arguments"])


_PART_NAMES = {"input_text": "text", "output_text": "text"}


def normalise(content: str | Iterable[Part] | None) -> Content:
    """A string where every part is text, else the parts with their Responses names made chat names."""
    if content is None or isinstance(content, str):
        return content
    parts = tuple(_normalise_part(part) for part in content)
    if all(part.get("type") == "text" for part in parts):
        return "\n".join(str(part["text"]) for part in parts)
    return parts


def _normalise_part(part: Part) -> Part:
    kind = part.get("type")
    if kind in _PART_NAMES:
        return {"type": "text", "text": part.get("text", "")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    return part


_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True, default=dict).encode


def chain(parent: str, message: Message) -> str:
    """The hash of a conversation up to and including `message`, given the hash before it.

    Role, normalised content and tool ids count; internal tool traffic and instructions do not change it,
    because a client that replays its transcript never saw the former and sends the latter at will.
    """
    if message.is_internal or message.is_instruction:
        return parent
    content = message.content or ""
    if not isinstance(content, str):
        content = _encode(content)
    tools = ",".join(use.id for use in message.tool_calls) if message.tool_calls else ""
    told = f"{parent}|{message.role}|{len(content)}|{content}|{tools}|{message.tool_call_id or ''}"
    return hashlib.blake2b(told.encode(errors="surrogatepass"), digest_size=16).hexdigest()
