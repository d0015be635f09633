"""A conversation in Pydantic AI's form: tool calls, tool results, images and files included.

Links to pictures and documents are handed on as links; nothing is fetched here.
"""

from __future__ import annotations

import base64
import binascii
import json
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic_ai.messages import (
    BinaryContent,
    DocumentUrl,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
    repair_messages,
)

from innkeeper.core.errors import Invalid
from innkeeper.core.messages import Content, Message, Part

Prompt = str | Sequence[UserContent]


@dataclass(frozen=True, slots=True)
class Conversation:
    """`prompt` is the last message where a user said it, else `None`: the run then goes on from `history`."""

    instructions: tuple[str, ...]
    history: tuple[ModelMessage, ...]
    prompt: Prompt | None


def converse(messages: Sequence[Message], *, calls_again: bool = False) -> Conversation:
    """Sort a turn's messages into instructions, history, and the prompt.

    `calls_again` leaves the calls of the last message open: the run begins by making them.

    Raises: Invalid if an attached file cannot be read.
    """
    instructions = tuple(message.text for message in messages if message.is_instruction and message.text)
    spoken = [message for message in messages if not message.is_instruction]
    prompt = _prompt(spoken.pop().content) if spoken and spoken[-1].role == "user" else None
    names = {use.id: use.name for message in spoken for use in message.tool_calls}
    history = [converted for message in spoken if (converted := _message(message, names)) is not None]
    # Calls that nobody answered would be refused by every provider.
    repaired = repair_messages(history, repair_last_response=not calls_again)
    return Conversation(instructions, tuple(repaired), prompt)


def _message(message: Message, tool_names: dict[str, str]) -> ModelMessage | None:
    match message.role:
        case "user":
            return ModelRequest(parts=[UserPromptPart(_prompt(message.content))])
        case "assistant":
            return _response(message)
        case _:
            call_id = message.tool_call_id or ""
            name = tool_names.get(call_id) or message.name or "tool"
            return ModelRequest(parts=[ToolReturnPart(name, message.text, tool_call_id=call_id)])


def _response(message: Message) -> ModelResponse | None:
    parts: list[ModelResponsePart] = [TextPart(message.text)] if message.text else []
    parts += [ToolCallPart(use.name, use.arguments, use.id) for use in message.tool_calls]
    return ModelResponse(parts=parts) if parts else None


def _prompt(content: Content) -> Prompt:
    if not isinstance(content, tuple):
        return content or ""
    return [_part(part) for part in content]


def _part(part: Part) -> UserContent:
    raw = cast("dict[str, Any]", part)
    match raw:
        case {"type": "text", "text": text}:
            return str(text)
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            return _linked(url, ImageUrl)
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": kind}}:
            return BinaryContent(_decoded(data), media_type=f"audio/{kind}")
        case {"type": "file", "file": dict(file)}:
            return _file(file)
        case {"type": "input_file"}:
            return _file(raw)
        case _:
            return json.dumps(raw, ensure_ascii=False, default=str)


def _file(file: dict[str, Any]) -> UserContent:
    name = str(file.get("filename") or "file")
    data, url = file.get("file_data"), file.get("file_url")
    if isinstance(url, str):
        return _linked(url, DocumentUrl)
    if not isinstance(data, str):
        return f"[file {name}]"
    if data.startswith("data:"):
        return _linked(data, DocumentUrl)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return BinaryContent(_decoded(data), media_type=kind)


def _linked(url: str, link: type[ImageUrl | DocumentUrl]) -> UserContent:
    if not url.startswith("data:"):
        return link(url)
    try:
        return BinaryContent.from_data_uri(url)
    except (ValueError, binascii.Error) as error:
        raise Invalid("A data URL in the message is not valid base64.", param="messages") from error


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise Invalid("A file in the message is not valid base64.", param="messages") from error
