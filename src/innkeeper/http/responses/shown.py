"""Shown: messages as items, for `input_items` and conversations. Text comes back as a list of parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from innkeeper.core.messages import Message
from innkeeper.core.runs import Run

Json = dict[str, Any]


def items_of(message: Message, id_of: Callable[[str, int], str]) -> list[Json]:
    """The items of a message; `id_of(prefix, part)` names each. A server's own tool traffic has none."""
    if message.is_internal:
        return []
    if message.role == "tool":
        return [_output(message, id_of("fc", 0))]
    found: list[Json] = []
    if message.content is not None or not message.tool_calls:
        found.append(_said(message, id_of("msg", 0)))
    for part, use in enumerate(message.tool_calls, 1):
        call: Json = {"id": id_of("fc", part), "type": "function_call", "status": "completed"}
        found.append({**call, "call_id": use.id, "name": use.name, "arguments": use.arguments})
    return found


def asked_items(run: Run) -> list[Json]:
    """What a response was asked, as items, oldest first."""
    place = run.id.removeprefix("run_")
    return [
        item
        for at, said in enumerate(run.input)
        for item in items_of(said, lambda prefix, part, at=at: f"{prefix}_{place}_i{at}p{part}")  # type: ignore[misc]
    ]


def _said(message: Message, item_id: str) -> Json:
    is_output = message.role == "assistant"
    content = [_output_part(part) if is_output else _input_part(part) for part in _parts(message)]
    return {"id": item_id, "type": "message", "status": "completed", "role": message.role, "content": content}


def _output(message: Message, item_id: str) -> Json:
    content = message.content
    output: Any = content if isinstance(content, str) else [_input_part(part) for part in _parts(message)]
    told = {"id": item_id, "type": "function_call_output", "status": "completed"}
    return {**told, "call_id": message.tool_call_id, "output": output}


def _parts(message: Message) -> Sequence[Mapping[str, Any]]:
    if isinstance(message.content, str):
        return [{"type": "text", "text": message.content}]
    return list(message.content or ())


def output_text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _output_part(part: Mapping[str, Any]) -> Json:
    return output_text(str(part.get("text", "")))


def _input_part(part: Mapping[str, Any]) -> Json:
    match part.get("type"):
        case "text":
            return {"type": "input_text", "text": part.get("text", "")}
        case "image_url":
            given = part.get("image_url")
            image = given if isinstance(given, Mapping) else {"url": given}
            return {"type": "input_image", "image_url": image.get("url"), "detail": image.get("detail") or "auto"}
        case "input_image":
            return {"detail": "auto", **part}
        case "input_audio":
            return _audio(part.get("input_audio"))
        case "file":
            file = part.get("file")
            return {"type": "input_file", **(file if isinstance(file, Mapping) else {})}
        case _:
            return dict(part)


def _audio(given: object) -> Json:
    """Recorded speech as a file, as no item of a conversation is audio."""
    audio: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    kind = audio.get("format") or "wav"
    data = f"data:audio/{kind};base64,{audio.get('data', '')}"
    return {"type": "input_file", "filename": f"audio.{kind}", "file_data": data}
