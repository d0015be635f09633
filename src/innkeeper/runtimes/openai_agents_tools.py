"""The tools of a run's session as tools of an OpenAI Agents SDK agent. Agents that it hands over to do not get them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from agents import Agent, FunctionTool, Handoff, RunContextWrapper
from agents.tool_context import ToolContext
from pydantic_core import to_json

from innkeeper.core.context import RunContext, SessionTool
from innkeeper.runtimes.session_tools import ToolRefused, beside, call


class Notes(Protocol):
    """Who tells what has come of calls."""

    def note_result(self, call_id: str, value: object) -> None: ...

    def note_refusal(self, call_id: str) -> None: ...


async def beside_own(
    agent: Agent[Any], agent_name: str, context: RunContext, clients: Sequence[FunctionTool]
) -> list[SessionTool]:
    """The session's tools that share no name with the agent's, those of its MCP servers, or the client's."""
    if not context.session_tools:
        return []
    handoffs = [one.tool_name if isinstance(one, Handoff) else Handoff.default_tool_name(one) for one in agent.handoffs]
    servers = await agent.get_mcp_tools(RunContextWrapper(context)) if agent.mcp_servers else []
    own = {*(tool.name for tool in (*agent.tools, *servers, *clients)), *handoffs}
    return beside(context.session_tools, own, agent_name)


def function_of(tool: SessionTool, notes: Notes) -> FunctionTool:
    """The SDK's tool. A failure is told to the model, so that the run goes on."""

    async def invoke(context: ToolContext[Any], arguments: str) -> str:
        try:
            value = await call(tool, _decoded(arguments))
        except ToolRefused as error:
            notes.note_refusal(context.tool_call_id)
            return str(error)
        notes.note_result(context.tool_call_id, value)
        return value if isinstance(value, str) else to_json(value).decode()

    return FunctionTool(
        name=tool.name,
        description=tool.description,
        params_json_schema=dict(tool.parameters),
        on_invoke_tool=invoke,
        strict_json_schema=False,
    )


def _decoded(arguments: str) -> object:
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None
