"""What stands around the tools of a Pydantic AI agent: their calls are on disk before they run, and they know them.

The session's tools stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai import RunContext as AgentContext
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import Tool, ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
from pydantic_core import SchemaValidator, core_schema

from innkeeper.core.context import SessionTool
from innkeeper.runtimes.session_tools import ToolRefused, beside, call
from innkeeper.runtimes.steering import Steering
from innkeeper.runtimes.tools import is_idempotent


def may_repeat(tool: Tool[Any]) -> bool:
    """Whether a call that was cut off may be made again: by the tool's metadata, or by `@tool` on its function."""
    return (tool.metadata or {}).get("idempotent") is True or is_idempotent(tool.function)


@dataclass
class ToolSteering(AbstractCapability[Any]):
    """One run's. Each call has a task of its own, so that parallel ones do not see each other's."""

    steering: Steering

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="outermost")  # hooks of the agent's own may have effects too

    async def wrap_tool_execute(
        self,
        ctx: AgentContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Any,
    ) -> Any:
        await self.steering.saved()
        self.steering.enter_tool(call.tool_call_id, call.tool_name)
        return await handler(args)


_ARGUMENTS = SchemaValidator(core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema()))


@dataclass(kw_only=True)
class _Offered(ToolsetTool[Any]):
    session_tool: SessionTool


@dataclass
class _Beside(WrapperToolset[Any]):
    """The tools of the agent and of the request, and those of the session that share no name with one of them."""

    tools: Sequence[SessionTool]
    agent_name: str
    known: dict[frozenset[str], Sequence[SessionTool]] = field(default_factory=dict)

    async def get_tools(self, ctx: AgentContext[Any]) -> dict[str, ToolsetTool[Any]]:
        own = await super().get_tools(ctx)
        names = frozenset(own)
        if names not in self.known:  # a step like the one before warns of nothing again
            self.known[names] = beside(self.tools, names, self.agent_name)
        return {**own, **{tool.name: self._offered(tool) for tool in self.known[names]}}

    def _offered(self, tool: SessionTool) -> _Offered:
        schema = dict(tool.parameters)
        told = ToolDefinition(name=tool.name, description=tool.description or None, parameters_json_schema=schema)
        return _Offered(toolset=self, tool_def=told, max_retries=1, args_validator=_ARGUMENTS, session_tool=tool)

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: AgentContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        if not isinstance(tool, _Offered):
            return await super().call_tool(name, tool_args, ctx, tool)
        try:
            return await call(tool.session_tool, tool_args)
        except ToolRefused as error:
            raise ToolFailed(str(error)) from error


@dataclass
class SessionTools(AbstractCapability[Any]):
    """One run's. What narrows the agent's tools must stand before it in the list of capabilities."""

    tools: Sequence[SessionTool]
    agent_name: str

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any] | None:
        return _Beside(toolset, self.tools, self.agent_name) if self.tools else None
