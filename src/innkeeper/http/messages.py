"""Messages as clients send them, checked and normalised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, StrictStr

from innkeeper.core.errors import Invalid
from innkeeper.core.messages import ROLES, Message, MessageRole, Part, ToolUse, normalise
from innkeeper.http.attachments import check_attachment, check_file


class ChatMessage(BaseModel):
    """One message; `content` is text, a list of parts, or null beside tool calls."""

    model_config = ConfigDict(extra="allow")

    role: StrictStr
    content: StrictStr | list[dict[str, Any]] | None = None
    name: StrictStr | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: StrictStr | None = None


def message(raw: ChatMessage, where: str) -> Message:
    """The message that a client sent; `where` is its path in the body.

    Raises: Invalid, naming the field.
    """
    dot = f"{where}." if where else ""
    role = "tool" if raw.role == "function" else raw.role
    if role not in ROLES:
        raise Invalid(f"{dot}role: use system, developer, user, assistant or tool.", param=f"{dot}role")
    if role == "tool" and not raw.tool_call_id:
        raise Invalid(f"{dot}tool_call_id: a tool's message needs one.", param=f"{dot}tool_call_id")
    if raw.content is None and not raw.tool_calls and role != "assistant":
        raise Invalid(f"{dot}content: Field required", param=f"{dot}content")
    content = (
        raw.content
        if isinstance(raw.content, str) or raw.content is None
        else content_parts(raw.content, f"{dot}content")
    )
    return Message(
        role=cast("MessageRole", role),
        content=content if isinstance(content, str) or content is None else normalise(content),
        tool_calls=tuple(_tool_use(use, f"{dot}tool_calls[{at}]") for at, use in enumerate(raw.tool_calls or ())),
        tool_call_id=raw.tool_call_id if role == "tool" else None,
        name=raw.name,
    )


_PART_FIELDS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "image_url": "image_url",
    "input_image": "image_url",
    "input_audio": "input_audio",
    "file": "file",
    "input_file": None,
}


def content_parts(parts: list[dict[str, Any]], where: str) -> list[Part]:
    """The parts of a content that a client sent; `where` is its path in the body.

    Raises: Invalid, naming the field.
    """
    checked: list[Part] = []
    for index, part in enumerate(parts):
        at = f"{where}[{index}]"
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in _PART_FIELDS:
            raise Invalid(
                f"{at}.type: use text, image_url, input_audio or file (or their input_ forms).", param=f"{at}.type"
            )
        is_named = kind == "input_image" and isinstance(part.get("file_id"), str) and not part.get("image_url")
        needed = None if is_named else _PART_FIELDS[kind]
        if needed is not None and needed not in part:
            raise Invalid(f"{at}.{needed}: Field required", param=f"{at}.{needed}")
        if needed in ("text", "refusal") and not isinstance(part[needed], str):
            raise Invalid(f"{at}.{needed}: Input should be a valid string", param=f"{at}.{needed}")
        if needed is None:
            check_file(part, at)
        else:
            check_attachment(part, needed, at)
        checked.append({"type": "text", "text": part["refusal"]} if kind == "refusal" else part)
    return checked


def _tool_use(raw: Mapping[str, Any], where: str) -> ToolUse:
    function = raw.get("function")
    if not isinstance(raw.get("id"), str) or not isinstance(function, dict):
        raise Invalid(f"{where}: a tool call needs id and function.", param=where)
    name, arguments = function.get("name"), function.get("arguments", "")
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise Invalid(f"{where}.function: name and arguments are strings.", param=f"{where}.function")
    return ToolUse(raw["id"], name, arguments)
