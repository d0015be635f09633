"""Pauses of Pydantic AI agents: what is asked of people, what is put aside until they answer, and what they answered.

They are Pydantic AI's own deferred calls: of a tool that requires approval, or that raises `ApprovalRequired`, somebody
approves the call; of one that raises `CallDeferred`, somebody gives the result. What is put aside is the history
in Pydantic AI's own form, as text, so that any process goes on from it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic_ai import RunContext as AgentContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ApprovalRequired, ModelRetry
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, Tool, ToolApproved, ToolDenied
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from innkeeper.core.actions import Action, Answer, Continuation
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import Paused, ToolCalled
from innkeeper.runtimes.tools import Rule, approval_rule, requires_approval

_VERSION = 1
_DENIED = "The call was denied."
_NO_OBJECT = "The arguments that were to replace those of the call are no JSON object."


@dataclass(frozen=True, slots=True)
class Aside:
    """What was put aside of a run in its step `step`. `calls` names the call of each action that was ever asked for.

    `waiting` are the actions that were asked for last; `clients` are calls of the same step that its client answers,
    of which nothing has been told.
    """

    messages: list[ModelMessage]
    step: int
    calls: Mapping[str, str]
    waiting: Collection[str]
    clients: Collection[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> set[str]:
        """The calls that wait, which have been told."""
        return {self.calls[action_id] for action_id in self.waiting}

    @property
    def response(self) -> ModelResponse | None:
        """The model's words that the run was paused in."""
        return next((one for one in reversed(self.messages) if isinstance(one, ModelResponse)), None)

    def clients_calls(self) -> dict[str, ToolCalled]:
        made = self.response.tool_calls if self.response else ()
        return {
            call.tool_call_id: ToolCalled(call.tool_name, call.tool_call_id, call.args_as_json_str(), True)
            for call in made
            if call.tool_call_id in self.clients
        }

    def results(self, continuation: Continuation) -> DeferredToolResults:
        """The answers in Pydantic AI's form, which asks for all results: those of clients no model is ever told."""
        results = DeferredToolResults(metadata=dict(self.metadata))
        results.calls.update(dict.fromkeys(set(self.clients) - self._answered(), ""))
        for action_id in self.waiting:
            _decide(results, self.calls[action_id], continuation.answer_to(action_id))
        return results

    def _answered(self) -> set[str]:
        parts = self.messages[-1].parts if self.messages else ()
        return {part.tool_call_id for part in parts if isinstance(part, ToolReturnPart)}


def _decide(results: DeferredToolResults, call_id: str, answer: Answer | None) -> None:
    if answer is None or answer.decision == "deny":
        results.approvals[call_id] = ToolDenied((answer and answer.message) or _DENIED)
    elif answer.decision == "answer":
        results.calls[call_id] = _value(answer.value)
    elif answer.arguments is None:
        results.approvals[call_id] = ToolApproved()
    elif isinstance(arguments := _value(answer.arguments), dict):
        results.approvals[call_id] = ToolApproved(override_args=arguments)
    else:
        results.calls[call_id] = ModelRetry(_NO_OBJECT)


def _value(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return text


def pause(
    requests: DeferredToolRequests,
    messages: list[ModelMessage],
    step: int,
    clients: Collection[str],
    asked: Mapping[str, str],
) -> Paused:
    """The pause for all that is not the client's. `asked` has the calls of actions that the run may have asked for."""
    known = dict(asked)
    actions = [_action(call, "approval", known) for call in requests.approvals]
    actions += [_action(call, "input", known) for call in requests.calls if call.tool_call_id not in clients]
    told = {
        "runtime": "pydantic-ai",
        "version": _VERSION,
        "step": step,
        "calls": known,
        "waiting": [action.id for action in actions],
        "clients": list(clients),
        "metadata": requests.metadata,
    }
    history = ModelMessagesTypeAdapter.dump_python(messages, mode="json", fallback=str)
    text = json.dumps({**told, "messages": history}, ensure_ascii=False, default=str)
    # What no UTF-8 can carry, no model has been told either.
    return Paused(tuple(actions), text.encode(errors="replace").decode())


def _action(call: ToolCallPart, kind: Any, known: dict[str, str]) -> Action:
    """An action of its own for each call: some models use the ids of calls again."""
    action_id, number = call.tool_call_id, 1
    while action_id in known:
        number += 1
        action_id = f"{call.tool_call_id}#{number}"
    known[action_id] = call.tool_call_id
    return Action(action_id, kind, call.tool_name, call.args_as_json_str())


def restored(continuation: Continuation) -> Aside:
    """What was put aside. Raises: AgentFailed where another version, or another runtime, has done it."""
    try:
        raw = json.loads(continuation.state)
        if (raw["runtime"], raw["version"]) != ("pydantic-ai", _VERSION):
            raise ValueError("not this version's")
        messages = ModelMessagesTypeAdapter.validate_json(json.dumps(raw["messages"]))
        kept = (raw[name] for name in ("step", "calls", "waiting", "clients", "metadata"))
        return Aside(messages, *kept)
    except (ValueError, LookupError, TypeError) as error:
        raise AgentFailed("What the run was paused with was put aside by another version of its agent.") from error


def rule_of(tool: Tool[Any]) -> Rule:
    """Whether calls of that tool require approval: by its own setting, or by `@tool` on its function."""
    return tool.requires_approval or approval_rule(tool.function)


@dataclass
class _Guarded(WrapperToolset[Any]):
    rules: Mapping[str, Rule]

    async def get_tools(self, ctx: AgentContext[Any]) -> dict[str, ToolsetTool[Any]]:
        return {name: self._marked(name, tool) for name, tool in (await super().get_tools(ctx)).items()}

    def _marked(self, name: str, tool: ToolsetTool[Any]) -> ToolsetTool[Any]:
        # Hooks around the call, which may have effects, run only once it is approved.
        if self.rules.get(name) is not True or tool.tool_def.kind != "function":
            return tool
        return replace(tool, tool_def=replace(tool.tool_def, kind="unapproved"))

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: AgentContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        rule = self.rules.get(name, False)
        if not ctx.tool_call_approved and await requires_approval(rule, name, tool_args):
            raise ApprovalRequired
        return await super().call_tool(name, tool_args, ctx, tool)


@dataclass
class Approvals(AbstractCapability[Any]):
    """Which calls require approval, by the names of their tools. It stands before whatever brings tools."""

    rules: Mapping[str, Rule]

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any] | None:
        return _Guarded(toolset, self.rules) if self.rules else None
