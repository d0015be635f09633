"""Pauses of OpenAI Agents SDK agents: what the SDK interrupts a run for, put aside as text, and decided by people.

What is put aside is the SDK's own `RunState` with what `openai_agents_steering` keeps of injected messages. The SDK
holds an approval to the arguments that it was asked for, so that those which replace them are handed to the tool.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents import (
    Agent,
    FunctionTool,
    RunContextWrapper,
    RunResultStreaming,
    RunState,
    Tool,
)
from agents.exceptions import UserError
from agents.items import ToolApprovalItem
from agents.tool_context import ToolContext
from pydantic_core import to_json

from innkeeper.core.actions import Action, Answer, Continuation
from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import Paused, ToolCalled
from innkeeper.core.messages import ToolUse
from innkeeper.runtimes.tools import Rule, approval_rule, requires_approval

_VERSION = 1
_DENIED = "The call was denied."
_NOT_HERE = "The call was approved with other arguments, which this tool cannot be handed. It was not made."

Placed = tuple[Any, tuple[dict[str, str], ...]]
"""What was injected, after the item that it follows."""


def pause(result: RunResultStreaming, step: int, clients: Sequence[ToolCalled], placed: Sequence[Placed]) -> Paused:
    """The pause for what the SDK has interrupted the run for; `clients` are calls of that step that have not been told.

    Raises: AgentFailed where two agents share a name, because the SDK does not tell them apart.
    """
    try:
        state = result.to_state().to_json(context_serializer=lambda _: {})
    except UserError as error:
        raise AgentFailed(f"The run cannot be put aside: {error}") from error
    told = {
        "runtime": "openai-agents",
        "version": _VERSION,
        "step": step,
        "clients": [(call.tool_name, call.tool_call_id, call.arguments) for call in clients],
        "placed": placed,
        "state": state,
    }
    text = json.dumps(told, ensure_ascii=False, default=lambda one: json.loads(to_json(one, fallback=str)))
    actions = tuple(_action(item) for item in result.interruptions)
    return Paused(actions, text.encode(errors="replace").decode())


def _action(item: ToolApprovalItem) -> Action:
    arguments = item.arguments
    if arguments is None:
        arguments = to_json(item.raw_item, fallback=str).decode()
    return Action(_id_of(item), "approval", item.name or "tool", arguments or "{}")


def _id_of(item: ToolApprovalItem) -> str:
    raw = item.raw_item
    told = raw if isinstance(raw, Mapping) else vars(raw)
    return str(told.get("call_id") or told.get("id"))


@dataclass(frozen=True, slots=True)
class Decided:
    """The SDK's state with every decision; the calls that have waited, and the ids of those that are not to be made."""

    state: RunState[Any, Any]
    calls: list[ToolUse] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Aside:
    """What was put aside, as far as it does not ask for the agent."""

    step: int
    clients: tuple[ToolCalled, ...]
    placed: tuple[Placed, ...]
    state: dict[str, Any]
    answers: tuple[Answer, ...]

    @property
    def edits(self) -> Mapping[str, str]:
        """The arguments that replace those of a call."""
        approved = (one for one in self.answers if one.decision == "approve")
        return {one.action_id: one.arguments for one in approved if one.arguments is not None}

    async def decided(self, agent: Agent[Any], context: RunContext) -> Decided:
        """Raises: AgentFailed where the agent, or the SDK, is not what it was."""
        wrapper = RunContextWrapper(context)
        try:
            state = await RunState.from_json(agent, self.state, context_override=wrapper)
        except UserError as error:
            raise AgentFailed("What the run was paused with was put aside by another version of its agent.") from error
        said = {one.action_id: one for one in self.answers}
        decided = Decided(state)
        for item in state.get_interruptions():
            decided.calls.append(ToolUse(_id_of(item), item.name or "tool", item.arguments or "{}"))
            reason = _reason_against(said.get(_id_of(item)), item, agent)
            if reason is None:
                state.approve(item)
            else:
                state.reject(item, rejection_message=reason)
                decided.denied.append(_id_of(item))
        return decided


def _reason_against(answer: Answer | None, item: ToolApprovalItem, agent: Agent[Any]) -> str | None:
    if answer is None or answer.decision != "approve":
        return (answer and answer.message) or _DENIED
    if answer.arguments is None or (item.agent is agent and item.name in _editable(agent)):
        return None
    return _NOT_HERE


def restored(continuation: Continuation) -> Aside:
    """What was put aside. Raises: AgentFailed where another version, or another runtime, has done it."""
    try:
        raw = json.loads(continuation.state)
        if (raw["runtime"], raw["version"]) != ("openai-agents", _VERSION):
            raise ValueError("not this version's")
        clients = tuple(ToolCalled(name, call_id, arguments, True) for name, call_id, arguments in raw["clients"])
        placed = tuple((after, tuple(items)) for after, items in raw["placed"])
        return Aside(raw["step"], clients, placed, raw["state"], continuation.answers)
    except (ValueError, LookupError, TypeError) as error:
        raise AgentFailed("What the run was paused with was put aside by another version of its agent.") from error


def _editable(agent: Agent[Any]) -> set[str]:
    return {tool.name for tool in agent.tools if isinstance(tool, FunctionTool)}


def edited(agent: Agent[Any], edits: Mapping[str, str]) -> Agent[Any]:
    """The agent, with tools that are handed `edits` in place of the arguments of those calls."""
    return agent.clone(tools=[_edited(tool, edits) for tool in agent.tools]) if edits else agent


def _edited(tool: Tool, edits: Mapping[str, str]) -> Tool:
    if not isinstance(tool, FunctionTool):
        return tool
    invoke = tool.on_invoke_tool

    async def handed(context: ToolContext[Any], arguments: str) -> Any:
        instead = edits.get(context.tool_call_id)
        if instead is None:
            return await invoke(context, arguments)
        told = copy.copy(context)
        told.tool_arguments = instead
        return await invoke(told, instead)

    changed = copy.copy(tool)
    changed.on_invoke_tool = handed
    return changed


def heed_marks(agent: Agent[Any]) -> None:
    """Have the SDK ask where `@tool(requires_approval=...)` does, in every agent that can be found from this one."""
    for one in _reachable(agent, set()):
        for tool in one.tools:
            if isinstance(tool, FunctionTool) and tool.needs_approval is False:
                tool.needs_approval = _needs(rule_of(tool), tool.name)


def rule_of(tool: FunctionTool) -> Rule:
    """What the mark says, above or below the SDK's own decorator."""
    return approval_rule(tool) or approval_rule(getattr(tool, "__wrapped__", None))


def _needs(rule: Rule, name: str) -> Any:
    if isinstance(rule, bool):
        return rule

    async def asked(_context: Any, arguments: dict[str, Any], _call_id: str) -> bool:
        return await requires_approval(rule, name, arguments)

    return asked


def _reachable(agent: Any, seen: set[int]) -> Iterator[Agent[Any]]:
    if not isinstance(agent, Agent) or id(agent) in seen:
        return
    seen.add(id(agent))
    yield agent
    for handoff in agent.handoffs:
        reference = getattr(handoff, "_agent_ref", None)
        yield from _reachable(reference() if reference else handoff, seen)
    for tool in agent.tools:
        yield from _reachable(getattr(tool, "_agent_instance", None), seen)
