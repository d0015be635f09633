"""What a request asks of a Pydantic AI agent: model settings, tools of the client, the form of the answer.

A request's wishes stand above the server's settings, and both above the agent's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic_ai import RunContext as AgentContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.settings import ModelSettings, ToolChoice, ToolOrOutput
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ExternalToolset

from innkeeper.core.runs import Parameters
from innkeeper.runtimes.settings import RuntimeSettings

_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
_ANY_OBJECT: Mapping[str, Any] = {"type": "object", "additionalProperties": True}


def model_settings(parameters: Parameters, settings: RuntimeSettings) -> Callable[[AgentContext[Any]], ModelSettings]:
    """The settings of each model call. A tool is demanded of the first call only, so that the run can end."""
    fixed = _fixed_settings(parameters, settings)
    choice = _tool_choice(parameters.tool_choice)

    def of_step(context: AgentContext[Any]) -> ModelSettings:
        # Pydantic AI warns of settings that a model does not know, and a client's wish is no programming error.
        unknown: frozenset[str] = getattr(context.model, "unsupported_settings", frozenset())
        most = settings.tokens_asked(parameters, (context.model_settings or {}).get("max_tokens"))
        asked = fixed if most is None else {**fixed, "max_tokens": most}
        known = cast("ModelSettings", {name: one for name, one in asked.items() if name not in unknown})
        is_forced = choice == "required" or isinstance(choice, list)
        if choice is None or (is_forced and context.run_step > 1):
            return known
        return {**known, "tool_choice": choice}

    return of_step


def _fixed_settings(parameters: Parameters, settings: RuntimeSettings) -> ModelSettings:
    asked: dict[str, Any] = {
        "temperature": settings.temperature if parameters.temperature is None else parameters.temperature,
        "top_p": parameters.top_p,
        "seed": parameters.seed,
        "stop_sequences": list(parameters.stop) or None,
        "presence_penalty": parameters.presence_penalty,
        "frequency_penalty": parameters.frequency_penalty,
        "parallel_tool_calls": parameters.parallel_tool_calls,
        "thinking": _thinking(parameters.reasoning_effort),
    }
    return cast("ModelSettings", {name: value for name, value in asked.items() if value is not None})


def _thinking(effort: str | None) -> str | bool | None:
    if effort == "none":
        return False
    return effort if effort in _EFFORTS else None


def _tool_choice(choice: str | Mapping[str, object] | None) -> ToolChoice:
    match choice:
        case "none" | "auto" | "required":
            return cast("ToolChoice", choice)
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return [name]
        case {"type": "allowed_tools", "allowed_tools": {"tools": list(tools), **rest}}:
            names = [tool["function"]["name"] for tool in tools]
            return names if rest.get("mode") == "required" else ToolOrOutput(names)
        case _:
            return None


def client_tools(parameters: Parameters) -> list[ToolDefinition]:
    """The tools that the client brings and answers; kinds other than functions are left out."""
    found = []
    for tool in parameters.tools:
        function = tool.get("function")
        if tool.get("type") == "function" and isinstance(function, Mapping) and function.get("name"):
            schema = function.get("parameters") or {"type": "object", "properties": {}}
            found.append(
                ToolDefinition(
                    name=str(function["name"]),
                    description=cast("str | None", function.get("description")),
                    parameters_json_schema=dict(schema),
                    strict=cast("bool | None", function.get("strict")),
                )
            )
    return found


def client_toolset(tools: Sequence[ToolDefinition]) -> list[AbstractToolset[Any]]:
    """The client's tools as a toolset whose calls end the run."""
    return [ExternalToolset[Any](list(tools))] if tools else []


def wanted_object(parameters: Parameters) -> OutputObjectDefinition | None:
    """The JSON object that `response_format` asks for, if it asks for one."""
    match parameters.response_format:
        case {"type": "json_schema", "json_schema": dict(asked)}:
            return OutputObjectDefinition(
                json_schema=dict(asked.get("schema") or _ANY_OBJECT),
                name=asked.get("name"),
                description=asked.get("description"),
                strict=asked.get("strict"),
            )
        case {"type": "json_object"}:
            return OutputObjectDefinition(json_schema=dict(_ANY_OBJECT))
        case _:
            return None


@dataclass
class Wishes(AbstractCapability[Any]):
    """The parts of a request that settings cannot express.

    `wanted` shapes the model's text and not the run's output: the text is streamed as the model writes it, and
    a text cut off by a limit is handed over as it is. `allowed_tools` narrows the agent's own tools.
    """

    wanted: OutputObjectDefinition | None = None
    allowed_tools: frozenset[str] | None = None

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any] | None:
        allowed = self.allowed_tools
        return None if allowed is None else toolset.filtered(lambda _, tool: tool.name in allowed)

    async def before_model_request(
        self, ctx: AgentContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        asked = request_context.model_request_parameters
        if self.wanted is None or asked.output_mode != "text":
            return request_context
        has_schema = self.wanted.json_schema != _ANY_OBJECT
        native = has_schema and request_context.model.profile.get("supports_json_schema_output", False)
        shaped = replace(asked, output_mode="native" if native else "prompted", output_object=self.wanted)
        return replace(request_context, model_request_parameters=shaped)


def wishes(parameters: Parameters, tools: Sequence[ToolDefinition]) -> Wishes:
    """What `parameters` ask beyond settings; tools of the client stay allowed."""
    allowed = parameters.allowed_tools
    names = None if allowed is None else frozenset(allowed) | {tool.name for tool in tools}
    return Wishes(wanted_object(parameters), names)
