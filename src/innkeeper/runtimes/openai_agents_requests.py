"""What the OpenAI Agents SDK is handed: the conversation as input items, and a request's wishes.

The user's agent is never changed: a request that brings tools or narrows them runs a clone.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any, cast

from agents import (
    Agent,
    AgentOutputSchemaBase,
    FunctionTool,
    FunctionToolResult,
    ModelSettings,
    RunContextWrapper,
    StopAtTools,
    Tool,
    ToolsToFinalOutputResult,
)
from agents.models.fake_id import FAKE_RESPONSES_ID
from openai.types.shared import Reasoning

from innkeeper.core.messages import Content, Message, Part
from innkeeper.core.runs import Parameters
from innkeeper.runtimes.settings import RuntimeSettings

Item = dict[str, Any]


def input_items(messages: Sequence[Message]) -> list[Item]:
    """The conversation as Responses items; calls that nobody answered and answers to no call are left out.

    A result follows its call, whatever was said between the two.
    """
    results: Results = {use.id: [] for message in messages for use in message.tool_calls}
    for message in messages:
        if message.role == "tool" and message.tool_call_id in results:
            results[message.tool_call_id].append(message.text)
    return [item for message in messages for item in _items(message, results)]


Results = dict[str | None, list[str]]  # by the call's id, which some providers use again in a later turn


def _items(message: Message, results: Results) -> list[Item]:
    if message.role == "tool":
        return []
    if message.role != "assistant":
        return [{"role": message.role, "content": _content(message.content)}]
    calls = [(use, results[use.id].pop(0)) for use in message.tool_calls if results[use.id]]
    return [
        *_said(message.text, before_calls=bool(calls)),
        *(
            {"type": "function_call", "call_id": one.id, "name": one.name, "arguments": one.arguments}
            for one, _ in calls
        ),
        *({"type": "function_call_output", "call_id": one.id, "output": result} for one, result in calls),
    ]


def _said(text: str, *, before_calls: bool) -> list[Item]:
    """The assistant's words. In the long form the SDK makes one chat message of them and the calls that follow."""
    if not text:
        return []
    if not before_calls:
        return [{"role": "assistant", "content": text}]
    part = {"type": "output_text", "text": text, "annotations": []}
    return [{"id": FAKE_RESPONSES_ID, "type": "message", "role": "assistant", "content": [part]}]


def _content(content: Content) -> str | list[Item]:
    if not isinstance(content, tuple):
        return content or ""
    return [_part(part) for part in content]


def _part(part: Part) -> Item:
    raw = cast("dict[str, Any]", part)
    match raw:
        case {"type": "text", "text": text}:
            return {"type": "input_text", "text": str(text)}
        case {"type": "image_url", "image_url": {"url": str(url), **rest}}:
            return {"type": "input_image", "image_url": url, "detail": rest.get("detail") or "auto"}
        case {"type": "input_audio"}:
            return raw
        case {"type": "file", "file": dict(file)}:
            return {"type": "input_file", **file}
        case {"type": "input_file"}:
            return raw
        case _:
            return {"type": "input_text", "text": json.dumps(raw, ensure_ascii=False, default=str)}


def model_settings(
    parameters: Parameters, settings: RuntimeSettings, own: ModelSettings, *, uses_chat: bool
) -> ModelSettings:
    """What a request and the server ask of every model call; what is not asked stays the agent's `own`."""
    effort = cast("Any", parameters.reasoning_effort)
    return ModelSettings(
        temperature=settings.temperature if parameters.temperature is None else parameters.temperature,
        max_tokens=settings.tokens_asked(parameters, own.max_tokens),
        top_p=parameters.top_p,
        presence_penalty=parameters.presence_penalty,
        frequency_penalty=parameters.frequency_penalty,
        parallel_tool_calls=parameters.parallel_tool_calls,
        tool_choice=_tool_choice(parameters),
        reasoning=Reasoning(effort=effort) if effort else None,
        # Without being asked, servers other than OpenAI's leave the usage out of a stream.
        include_usage=True if uses_chat else None,
        extra_args=_extra_args(parameters, uses_chat=uses_chat) or None,
    )


def _extra_args(parameters: Parameters, *, uses_chat: bool) -> dict[str, Any]:
    """Fields that only one of the two APIs knows; Responses has neither `stop` nor `seed`."""
    wants_json = (parameters.response_format or {}).get("type") == "json_object"
    if not uses_chat:
        return {"text": {"format": {"type": "json_object"}}} if wants_json else {}
    asked: dict[str, Any] = {
        "stop": list(parameters.stop) or None,
        "seed": parameters.seed,
        "response_format": {"type": "json_object"} if wants_json else None,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _tool_choice(parameters: Parameters) -> str | None:
    match parameters.tool_choice:
        case "none" | "auto" | "required" as choice:
            return choice
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return name
        case {"type": "allowed_tools", "allowed_tools": {"mode": "required"}}:
            return "required"
        case _:
            return None


def _choosable(parameters: Parameters) -> frozenset[str] | None:
    """The names among which the choice of a tool is free; `None` where all are."""
    match parameters.tool_choice:
        case {"type": "allowed_tools", "allowed_tools": {"tools": list(tools)}}:
            return frozenset(tool["function"]["name"] for tool in tools)
        case _:
            return None


def client_tools(agent: Agent[Any], parameters: Parameters) -> list[FunctionTool]:
    """The tools that the client brings and answers; other kinds, and names that the agent has, are left out."""
    own = {tool.name for tool in agent.tools}
    choosable = _choosable(parameters)
    found = []
    for tool in parameters.tools:
        function = cast("dict[str, Any]", tool.get("function") or {})
        name = function.get("name") if tool.get("type") == "function" else None
        if name and name not in own and (choosable is None or name in choosable):
            found.append(
                FunctionTool(
                    name=str(name),
                    description=str(function.get("description") or ""),
                    params_json_schema=dict(function.get("parameters") or {"type": "object", "properties": {}}),
                    on_invoke_tool=_leave_to_client,
                    strict_json_schema=bool(function.get("strict")),
                )
            )
    return found


async def _leave_to_client(_context: Any, _arguments: str) -> str:
    return ""


def adapted(
    agent: Agent[Any], parameters: Parameters, tools: Sequence[FunctionTool], of_session: Sequence[FunctionTool] = ()
) -> Agent[Any]:
    """The agent as this request wants it: `agent` itself, or a clone. `tools` are the client's."""
    changes: dict[str, Any] = {}
    own: list[Tool] = [*agent.tools, *of_session]
    if of_session:
        changes["tools"] = own
    if parameters.allowed_tools is not None:
        own = [tool for tool in own if tool.name in parameters.allowed_tools]
        changes["mcp_servers"] = []  # their tools are known only once asked, and none of them was allowed here
        changes["tools"] = own
    if (choosable := _choosable(parameters)) is not None:
        own = [tool for tool in own if tool.name in choosable]
        changes["tools"] = own
    if tools:
        changes["tools"] = [*own, *tools]
        changes["tool_use_behavior"] = _stops_at(agent, frozenset(tool.name for tool in tools))
    schema = _WantedSchema.of(parameters)
    if schema is not None and agent.output_type in (None, str):
        changes["output_type"] = schema
    return agent.clone(**changes) if changes else agent


def _stops_at(agent: Agent[Any], names: frozenset[str]) -> Any:
    """The agent's own way with tool results, except that a call of a client's tool ends the run."""
    own = agent.tool_use_behavior

    async def decide(context: RunContextWrapper[Any], results: list[FunctionToolResult]) -> ToolsToFinalOutputResult:
        if any(result.tool.name in names for result in results):
            return ToolsToFinalOutputResult(is_final_output=True, final_output="")
        if callable(own):
            decision: Any = own(context, results)
            return cast("ToolsToFinalOutputResult", await decision if inspect.isawaitable(decision) else decision)
        stopping = results[:1] if own == "stop_on_first_tool" else _named(results, own)
        return ToolsToFinalOutputResult(bool(stopping), stopping[0].output if stopping else None)

    return decide


def _named(results: list[FunctionToolResult], behavior: str | StopAtTools) -> list[FunctionToolResult]:
    names = [] if isinstance(behavior, str) else behavior.get("stop_at_tool_names", [])
    return [result for result in results if result.tool.name in names]


class _WantedSchema(AgentOutputSchemaBase):
    """A client's `json_schema`: told to the model, while its text is passed on as it is."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked

    @classmethod
    def of(cls, parameters: Parameters) -> _WantedSchema | None:
        match parameters.response_format:
            case {"type": "json_schema", "json_schema": {"schema": dict()} as asked}:
                return cls(cast("dict[str, Any]", asked))
            case _:
                return None

    def is_plain_text(self) -> bool:
        return False

    def name(self) -> str:
        return str(self._asked.get("name") or "output")

    def json_schema(self) -> dict[str, Any]:
        return dict(self._asked["schema"])

    def is_strict_json_schema(self) -> bool:
        return bool(self._asked.get("strict"))

    def validate_json(self, json_str: str) -> Any:
        return json_str
