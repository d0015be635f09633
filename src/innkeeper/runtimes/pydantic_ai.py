"""The runtime of Pydantic AI agents: `agent.iter` in, core events out.

The conversation is put into Pydantic AI's form by `pydantic_ai_messages`, a request's wishes by
`pydantic_ai_requests`; `pydantic_ai_tools` stands around tools, and `pydantic_ai_pauses` before those that people must
approve. What was injected joins the next request, after the results of tools. An agent whose output is text streams it;
any other output is yielded at the end, as JSON.
Importing this module imports `pydantic_ai`: it is imported when an agent of it is served or first run.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import pydantic_ai
from pydantic_ai import Agent, AgentRun, CallToolsNode, ModelRequestNode
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.capabilities import ReinjectSystemPrompt
from pydantic_ai.exceptions import ContentFilterError, OutputTokenLimitExceeded
from pydantic_ai.messages import (
    AgentStreamEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    UserPromptPart,
)
from pydantic_ai.models import Model
from pydantic_ai.output import ToolOutput
from pydantic_ai.tools import DeferredToolRequests, Tool, ToolDefinition
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.usage import RunUsage, UsageLimits
from pydantic_core import to_json, to_jsonable_python

from innkeeper.core.agents import AgentDescription, Prompts
from innkeeper.core.context import RunContext, SessionTool
from innkeeper.core.errors import AgentFailed, SetupError
from innkeeper.core.events import (
    AgentEvent,
    FinishNoted,
    ReasoningDelta,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.core.runs import Turn
from innkeeper.core.usage import Usage
from innkeeper.runtimes.functions import pricing_of
from innkeeper.runtimes.models import Models
from innkeeper.runtimes.pydantic_ai_messages import converse
from innkeeper.runtimes.pydantic_ai_pauses import Approvals, Aside, pause, restored, rule_of
from innkeeper.runtimes.pydantic_ai_requests import client_tools, client_toolset, model_settings, wishes
from innkeeper.runtimes.pydantic_ai_tools import SessionTools, ToolSteering, may_repeat
from innkeeper.runtimes.relays import Emit, relayed
from innkeeper.runtimes.resumptions import Remainder, continued, remainder_of
from innkeeper.runtimes.session_tools import beside
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.steering import Steering
from innkeeper.runtimes.tools import Rule

_OUTPUT_TOOL = "final_result"  # how Pydantic AI begins the names of tools that take an output

pydantic_ai.BANNER_ENABLED = False  # the terminal of a server is not the library's to greet in


class PydanticAIRuntime:
    """Runs a `pydantic_ai.Agent`. `max_steps` bounds its model calls; `None` leaves that to Pydantic AI.

    `approvals` names tools whose calls require approval, beside those that are marked.
    """

    kind = "pydantic-ai"

    def __init__(
        self,
        agent: AbstractAgent[Any, Any],
        name: str,
        settings: RuntimeSettings,
        *,
        max_steps: int | None = None,
        approvals: Collection[str] = (),
    ) -> None:
        self._agent = agent
        self._name = name
        self._settings = settings
        self._max_steps = max_steps
        self._approvals = tuple(approvals)
        self._models = Models(settings)

    def describe(self) -> AgentDescription:
        model = self._agent.model
        shown = model if isinstance(model, str) else model.model_id if isinstance(model, Model) else None
        description = self._agent.description
        return AgentDescription(
            self._name,
            model=shown,
            description=description if isinstance(description, str) else "",
            tools=self._own_tools,
            max_steps=self._max_steps,
            provider=shown.partition(":")[0] if shown else "pydantic-ai",
            has_model=True,
            accepts_client_tools=not self._validates_output,
            accepts_models=True,
            resumes=True,
            pricing=pricing_of(self._agent),
        )

    def prompts(self) -> Prompts:
        # Pydantic AI shows them nowhere else. A function among them is asked at each run, and not shown.
        told = [getattr(one, "instruction", one) for one in getattr(self._agent, "_instructions", None) or ()]
        texts = [one for one in (*getattr(self._agent, "_system_prompts", ()), *told) if isinstance(one, str)]
        return Prompts("\n\n".join(texts) or None)

    def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent]:
        return relayed(partial(self._produce, turn, context), context)

    def with_model(self, model: Model) -> PydanticAIRuntime:
        """The same agent with another model.

        Raises: SetupError for an agent that is wrapped in another, which has the model.
        """
        agent = copy.copy(self._agent)
        if not isinstance(agent, Agent):
            kind = type(agent).__qualname__
            raise SetupError(f"The agent {self._name!r} is a {kind}, whose model cannot be replaced.")
        agent.model = model
        return PydanticAIRuntime(
            agent, self._name, self._settings, max_steps=self._max_steps, approvals=self._approvals
        )

    async def close(self) -> None:
        """Close the model's connections of the running event loop."""
        await self._models.close()

    async def _produce(self, turn: Turn, context: RunContext, emit: Emit) -> None:
        tools = self._client_tools(turn)
        paused = turn.continuation if turn.resumption is None else None  # else messages tell more than was put aside
        aside = await asyncio.to_thread(restored, paused) if paused else None
        rest = continued(turn, aside.step) if aside else remainder_of(turn, self._idempotent_tools)
        said = converse(rest.messages, calls_again=bool(rest.again))
        steering = Steering(context, emit)
        narrator = _Narrator(emit, steering, rest, self._streams_text, self._max_steps, aside)
        for event in rest.told():
            await emit(event)
        with Agent.using_thread_executor(self._threads):
            try:
                async with (
                    self._model(rest.parameters.model, context) as model,
                    self._agent.iter(
                        None if aside else said.prompt,
                        output_type=[*self._outputs, DeferredToolRequests] if tools or self._may_wait else None,
                        message_history=aside.messages if aside else said.history,
                        deferred_tool_results=aside.results(paused) if aside and paused else None,
                        model=model,
                        instructions=list(said.instructions) or None,
                        deps=context if self._agent.deps_type is RunContext else None,
                        model_settings=model_settings(rest.parameters, self._settings),
                        usage=RunUsage(requests=rest.steps),
                        usage_limits=None if self._max_steps is None else UsageLimits(request_limit=None),
                        infer_name=False,
                        toolsets=client_toolset(tools),
                        capabilities=[
                            ReinjectSystemPrompt(),
                            wishes(rest.parameters, tools),
                            ToolSteering(steering),
                            Approvals(self._rules),
                            SessionTools(self._beside_outputs(context), self._name),
                        ],
                    ) as run,
                ):
                    await narrator.tell(run)
            except OutputTokenLimitExceeded:
                await emit(FinishNoted("length"))
            except ContentFilterError:
                await emit(FinishNoted("content_filter"))

    @asynccontextmanager
    async def _model(self, wanted: str | None, context: RunContext) -> AsyncIterator[Model | None]:
        model = wanted or self._agent.model
        if model is None:
            raise AgentFailed(f"The agent {self._name!r} has no model.")
        if not isinstance(model, str):
            yield None
            return
        async with self._models.lent(model, context) as lent:
            yield lent

    def _client_tools(self, turn: Turn) -> list[ToolDefinition]:
        if self._validates_output:
            return []
        return [tool for tool in client_tools(turn.parameters) if tool.name not in self._own_tools]

    def _beside_outputs(self, context: RunContext) -> list[SessionTool]:
        """The session's tools, but for names that the agent's output goes by."""
        tools = context.session_tools
        named = {one.name for one in self._outputs if isinstance(one, ToolOutput) and one.name}
        taken = named | {tool.name for tool in tools if tool.name.startswith(_OUTPUT_TOOL)}
        return list(tools) if self._streams_text else beside(tools, taken, self._name)

    @property
    def _outputs(self) -> list[Any]:
        outputs = self._agent.output_type
        listed = list(outputs) if isinstance(outputs, Sequence) else [outputs]
        return [output for output in listed if output is not DeferredToolRequests]

    @property
    def _functions(self) -> dict[str, Tool[Any]]:
        toolsets = [toolset for toolset in self._agent.toolsets if isinstance(toolset, FunctionToolset)]
        return {name: tool for toolset in toolsets for name, tool in toolset.tools.items()}

    @property
    def _may_wait(self) -> bool:
        """Whether a call may wait for people; it costs a run of structured output about a millisecond."""
        has_tools = any(not isinstance(one, FunctionToolset) or one.tools for one in self._agent.toolsets)
        return has_tools and not self._validates_output

    @property
    def _own_tools(self) -> tuple[str, ...]:
        return tuple(self._functions)

    @property
    def _rules(self) -> Mapping[str, Rule]:
        marked = {name: rule for name, tool in self._functions.items() if (rule := rule_of(tool))}
        return {**marked, **dict.fromkeys(self._approvals, True)}

    @property
    def _idempotent_tools(self) -> frozenset[str]:
        # A call that somebody must approve is never made again: the log does not tell what was decided of it.
        repeatable = frozenset(name for name, tool in self._functions.items() if may_repeat(tool))
        return repeatable - self._rules.keys()

    @property
    def _validates_output(self) -> bool:
        # Pydantic AI lets no run change the output of such an agent, and calls of client tools are an output.
        return bool(getattr(self._agent, "_output_validators", None))

    @property
    def _streams_text(self) -> bool:
        return self._outputs == [str] and not self._validates_output

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        # Its own: tools that hang take no other agent's threads, and `max_threads` holds.
        return ThreadPoolExecutor(self._settings.max_threads, thread_name_prefix=f"innkeeper-{self._name}")


class _Narrator:
    """Tells one run as core events."""

    def __init__(
        self,
        emit: Emit,
        steering: Steering,
        rest: Remainder,
        streams_text: bool,
        max_steps: int | None,
        aside: Aside | None,
    ) -> None:
        self._emit = emit
        self._steering = steering
        self._streams_text = streams_text
        self._max_steps = max_steps
        self._step = rest.steps
        self._told_before = aside.told() if aside else {use.id for use in rest.again}
        self._asked = aside.calls if aside else {use.id: use.id for use in rest.again}
        self._aside = aside
        self._response = aside.response if aside else None
        self._is_counted = aside is not None
        self._spent = Usage()
        self._open_calls: dict[str, tuple[str, float]] = {}
        self._clients_calls = aside.clients_calls() if aside else {}

    async def tell(self, run: AgentRun[Any, Any]) -> None:
        async for node in run:
            if isinstance(node, ModelRequestNode):
                await self._tell_request(node, run)
            elif isinstance(node, CallToolsNode):
                await self._tell_tools(node, run)
                if self._aside and self._aside.clients and not self._open_calls:
                    break  # no model is told what its client has yet to answer
        output = run.result.output if run.result is not None else None
        if isinstance(output, DeferredToolRequests) and self._open_calls:
            # In a thread: a history may be long, and its first encoding builds much.
            clients = self._clients_calls.keys()
            paused = await asyncio.to_thread(pause, output, run.all_messages(), self._step, clients, self._asked)
            await self._emit(paused)
        elif self._clients_calls:
            await self._emit(FinishNoted("tool_calls"))
        elif run.result is not None:
            await self._tell_output(output)

    async def _tell_request(self, node: ModelRequestNode[Any, Any], run: AgentRun[Any, Any]) -> None:
        if self._max_steps is not None and self._step >= self._max_steps:
            raise AgentFailed(f"The agent used all of its {self._max_steps} steps without coming to an end.")
        if received := await self._steering.received():
            injected = [UserPromptPart(message.content) for message in received]
            node.request = replace(node.request, parts=[*node.request.parts, *injected])
        self._step += 1
        await self._emit(StepChanged(self._step, "started"))
        async with node.stream(run.ctx) as stream:
            async for event in stream:
                await self._tell_part(event)

    async def _tell_part(self, event: AgentStreamEvent) -> None:
        match event:
            case PartStartEvent(part=TextPart(content=text)) if text and self._streams_text:
                await self._emit(TextDelta(text))
            case PartDeltaEvent(delta=TextPartDelta(content_delta=text)) if text and self._streams_text:
                await self._emit(TextDelta(text))
            case PartStartEvent(part=ThinkingPart(content=text)) if text:
                await self._emit(ReasoningDelta(text))
            case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=text)) if text:
                await self._emit(ReasoningDelta(text))

    async def _tell_tools(self, node: CallToolsNode[Any, Any], run: AgentRun[Any, Any]) -> None:
        self._response = response = node.model_response
        is_counted, self._is_counted = self._is_counted, False
        if response.usage.has_values() and not is_counted:
            spent = Usage(response.usage.input_tokens, response.usage.output_tokens, response.model_name)
            self._spent = self._spent.plus(spent)
            await self._emit(UsageReported(spent))
        try:
            async with node.stream(run.ctx) as events:
                async for event in events:
                    await self._tell_tool(event, run)
        except (OutputTokenLimitExceeded, ContentFilterError):
            await self._emit(StepChanged(self._step, "completed"))
            raise
        except Exception as error:
            for call_id, (name, _) in self._open_calls.items():
                await self._emit(ToolReturned(name, call_id, error=f"The tool raised {type(error).__name__}."))
            await self._tell_others(run)
            raise
        await self._tell_others(run)
        if self._open_calls:
            return  # they wait for people, and their step with them
        for call in self._clients_calls.values():  # last, because nothing may follow a call that is the client's
            await self._emit(call)
        await self._emit(StepChanged(self._step, "completed"))

    async def _tell_others(self, run: AgentRun[Any, Any]) -> None:
        """What others have consumed on this run's account: agents that its tools asked, models that were given up."""
        spent = self._spent
        others = run.usage.input_tokens - spent.input_tokens, run.usage.output_tokens - spent.output_tokens
        if max(others) > 0:
            usage = Usage(max(others[0], 0), max(others[1], 0))
            self._spent = spent.plus(usage)
            await self._emit(UsageReported(usage))

    async def _tell_tool(self, event: AgentStreamEvent, run: AgentRun[Any, Any]) -> None:
        match event:
            case FunctionToolCallEvent(part=call):
                known = run.ctx.deps.tool_manager.get_tool_def(call.tool_name)
                arguments = call.args if isinstance(call.args, str) else call.args_as_json_str()
                if known is not None and known.kind == "external" and event.args_valid is True:
                    called = ToolCalled(call.tool_name, call.tool_call_id, arguments, True)
                    self._clients_calls[call.tool_call_id] = called
                if call.tool_call_id in self._clients_calls:
                    return
                if call.tool_call_id in self._told_before:
                    self._told_before.discard(call.tool_call_id)
                else:
                    await self._emit(ToolCalled(call.tool_name, call.tool_call_id, arguments))
                self._open_calls[call.tool_call_id] = (call.tool_name, time.perf_counter())
            case FunctionToolResultEvent(part=part) if part.tool_call_id not in self._clients_calls:
                name, began = self._open_calls.pop(part.tool_call_id, (part.tool_name, time.perf_counter()))
                elapsed = round((time.perf_counter() - began) * 1000, 3)
                if part.outcome == "success":
                    result = to_jsonable_python(part.content, fallback=str, inf_nan_mode="null")
                    returned = ToolReturned(name, part.tool_call_id, result, duration_ms=elapsed)
                else:
                    said = part.model_response_str(wrap_if_error=False)
                    returned = ToolReturned(name, part.tool_call_id, error=said, duration_ms=elapsed)
                await self._emit(returned)

    async def _tell_output(self, output: object) -> None:
        if not self._streams_text:
            text = output if isinstance(output, str) else to_json(output, fallback=str).decode()
            await self._emit(TextDelta(text))
        reason = self._response.finish_reason if self._response else None
        if reason == "length" or reason == "content_filter":
            await self._emit(FinishNoted(reason))
