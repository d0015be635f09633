"""How a run of the OpenAI Agents SDK is steered: what is injected before each model call, and what stands around tools.

The SDK hands its own items to each model call and forgets what a filter adds, so what was injected is kept here and
put in at its place again. Runs that tools start for agents of their own inherit the filter and are left alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from agents import Agent, FunctionTool, RunConfig, RunHooks, RunResultStreaming, Tool
from agents.run_config import CallModelData, ModelInputData
from agents.tool import invoke_function_tool
from agents.tool_context import ToolContext

from innkeeper.core.context import RunContext, get_tool_call
from innkeeper.core.messages import ToolUse
from innkeeper.runtimes.steering import Steering
from innkeeper.runtimes.tools import is_idempotent


@dataclass(slots=True)
class _Placed:
    """What was injected, and the item that it follows; `None` stands before the first."""

    after: Any
    items: tuple[dict[str, str], ...]


class Intervention(RunHooks[Any]):
    """One run's. `end_step` tells that the step before a model call has ended; `result` is set before it begins."""

    def __init__(self, steering: Steering, end_step: Callable[[], Awaitable[None]]) -> None:
        self._steering = steering
        self._end_step = end_step
        self._placed: list[_Placed] = []
        self.result: RunResultStreaming | None = None

    @property
    def placed(self) -> list[tuple[Any, tuple[dict[str, str], ...]]]:
        """What was injected so far, each after its item, to be put aside."""
        return [(one.after, one.items) for one in self._placed]

    def restore(self, placed: Iterable[tuple[Any, tuple[dict[str, str], ...]]]) -> None:
        self._placed = [_Placed(after, items) for after, items in placed]

    async def add_injected(self, data: CallModelData[Any]) -> ModelInputData:
        """The input of a model call with what has been injected before it; a filter of the SDK."""
        model_input = data.model_data
        if get_tool_call() is not None:
            return model_input
        await self._events_are_told()
        await self._end_step()
        received = await self._steering.received()
        items: list[Any] = list(model_input.input)
        if received:
            said = tuple({"role": "user", "content": message.content} for message in received)
            self._placed.append(_Placed(items[-1] if items else None, said))
        return ModelInputData(self._with_placed(items), model_input.instructions)

    def _with_placed(self, items: list[Any]) -> list[Any]:
        following: dict[int, list[Any]] = {}
        for placed in self._placed:
            found = [place for place, item in enumerate(items) if item == placed.after]
            if not found and items and placed.after is not None:  # a handoff has rewritten the conversation
                found, placed.after = [len(items) - 1], items[-1]
            following.setdefault(found[-1] if found else -1, []).extend(placed.items)
        joined = following.get(-1, [])
        for place, item in enumerate(items):
            joined += [item, *following.get(place, [])]
        return joined

    def on_tool_start(self, context: Any, agent: Agent[Any], tool: Tool) -> Coroutine[Any, Any, None]:
        # Not async: the SDK awaits this elsewhere, and the tool must find its call in the task that calls it.
        if isinstance(context, ToolContext):
            self._steering.enter_tool(context.tool_call_id, context.tool_name)
        return self._calls_are_saved()

    async def call_again(
        self, use: ToolUse, tool: FunctionTool, agent: Agent[Any], context: RunContext, config: RunConfig
    ) -> Any:
        """The result of a call that an earlier attempt of the run has told, in a task of its own."""
        await self._steering.saved()
        self._steering.enter_tool(use.id, use.name)
        called = ToolContext(
            context,
            tool_name=use.name,
            tool_call_id=use.id,
            tool_arguments=use.arguments,
            agent=agent,
            run_config=config,
        )
        return await invoke_function_tool(function_tool=tool, context=called, arguments=use.arguments)

    async def _calls_are_saved(self) -> None:
        await self._events_are_told()
        await self._steering.saved()

    async def _events_are_told(self) -> None:
        """Return when what the SDK has put into its stream has been read from it, or nobody reads it any more."""
        if self.result is not None:
            await self.result._wait_for_turn_event_consumption()


def repeatable(agent: Agent[Any]) -> dict[str, FunctionTool]:
    """The agent's tools that `@tool(idempotent=True)` marks: above or below the SDK's own decorator.

    A call that somebody must approve is never made again: the log does not tell what was decided of it.
    """
    tools = [tool for tool in agent.tools if isinstance(tool, FunctionTool) and tool.needs_approval is False]
    return {tool.name: tool for tool in tools if is_idempotent(tool) or is_idempotent(_function_of(tool))}


def _function_of(tool: FunctionTool) -> object:
    return getattr(tool, "__wrapped__", None)


def goes_on(agent: Agent[Any]) -> bool:
    """Whether a conversation tells where its run is: not which agent it was handed to, nor that a tool ended it."""
    return not agent.handoffs and agent.tool_use_behavior == "run_llm_again"
