"""The scripted model behind `model="test"`: instant, deterministic, streamed word by word, without a network.

It answers "You said: …" with the last user message. A message of lines `call NAME {"json": "arguments"}` calls
those tools, in parallel if there are several lines, and the next answer is "NAME returned …" for each. A tool
that the request demands (`tool_choice`) is called once, and structured output is filled with minimal values.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import ToolDefinition

if TYPE_CHECKING:
    from pydantic_ai.models.function import DeltaToolCalls

_INVENTOR = TestModel()


def scripted_model() -> FunctionModel:
    """A fresh scripted model."""
    return FunctionModel(stream_function=_answer, model_name="test")


async def _answer(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
    returned = _returned(messages)
    may_call = not returned and (info.model_settings or {}).get("tool_choice") != "none"
    calls = (_asked_calls(_prompt(messages)) or _demanded_calls(info)) if may_call else []
    if info.output_tools and not calls:
        calls = [_invented(info.output_tools[0])]
    if calls:
        for index, (name, arguments) in enumerate(calls):
            call_id = f"call_{len(messages)}_{index}"
            # Names first and arguments in two pieces, as real models stream them.
            yield {index: DeltaToolCall(name, arguments[:1], tool_call_id=call_id)}
            yield {index: DeltaToolCall(None, arguments[1:], tool_call_id=call_id)}
        return
    for piece in _pieces(_text(returned, messages, info)):
        yield piece


def _text(returned: Sequence[ToolReturnPart], messages: list[ModelMessage], info: AgentInfo) -> str:
    wanted = info.model_request_parameters.output_object
    if wanted is not None:
        return _invented(ToolDefinition(name="output", parameters_json_schema=wanted.json_schema))[1]
    if returned:
        return " ".join(f"{part.tool_name} returned {part.model_response_str()}." for part in returned)
    return f"You said: {_prompt(messages)}"


def _pieces(text: str) -> list[str]:
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]


def _last_parts(messages: list[ModelMessage]) -> Sequence[Any]:
    last = messages[-1] if messages else None
    return last.parts if isinstance(last, ModelRequest) else ()


def _returned(messages: list[ModelMessage]) -> list[ToolReturnPart]:
    parts = _last_parts(messages)
    if any(isinstance(part, UserPromptPart) for part in parts):
        return []
    return [part for part in parts if isinstance(part, ToolReturnPart)]


def _prompt(messages: list[ModelMessage]) -> str:
    for message in reversed(messages):
        for part in reversed(message.parts):
            if isinstance(part, UserPromptPart):
                content = part.content
                if isinstance(content, str):
                    return content
                return " ".join(item if isinstance(item, str) else f"[{type(item).__name__}]" for item in content)
    return ""


def _asked_calls(prompt: str) -> list[tuple[str, str]]:
    calls = []
    for line in prompt.splitlines():
        word, _, rest = line.strip().partition(" ")
        name, _, arguments = rest.strip().partition(" ")
        if word != "call" or not name:
            return []
        calls.append((name, arguments.strip() or "{}"))
    return calls


def _demanded_calls(info: AgentInfo) -> list[tuple[str, str]]:
    choice = (info.model_settings or {}).get("tool_choice")
    if choice == "required":
        return [_invented(tool) for tool in info.function_tools[:1]]
    if isinstance(choice, list):
        return [_invented(tool) for tool in info.function_tools if tool.name in choice]
    return []


def _invented(tool: ToolDefinition) -> tuple[str, str]:
    return tool.name, json.dumps(_INVENTOR.gen_tool_args(tool))
