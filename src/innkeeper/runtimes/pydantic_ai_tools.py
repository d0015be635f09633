"""What stands around the tools of a Pydantic AI agent: their calls are on disk before they run, and they know them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_ai import RunContext as AgentContext
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import Tool, ToolDefinition

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
