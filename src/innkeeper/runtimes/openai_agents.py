"""The runtime of OpenAI Agents SDK agents: `Runner.run_streamed` in, core events out.

The conversation and a request's wishes are put into the SDK's form by `openai_agents_requests`; the models are
reached through `openai_agents_models`; `openai_agents_steering` stands before model calls and tools, and
`openai_agents_pauses` before those that people must approve. Traces are not sent anywhere. A handoff is told as a tool
call and its result. Importing this module imports `agents`, the SDK's package.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from agents import (
    Agent,
    HandoffCallItem,
    HandoffOutputItem,
    MaxTurnsExceeded,
    Model,
    RunConfig,
    RunItem,
    Runner,
    RunResultStreaming,
    ToolCallItem,
    ToolCallOutputItem,
)
from agents.exceptions import ModelBehaviorError, ModelRefusalError
from agents.run_config import ToolErrorFormatterArgs
from openai.types.responses import ResponseFunctionToolCall
from pydantic_core import to_json, to_jsonable_python

from innkeeper.core.agents import AgentDescription, Prompts
from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed
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
from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.runs import Parameters, Turn
from innkeeper.core.usage import Usage
from innkeeper.runtimes.functions import pricing_of
from innkeeper.runtimes.openai_agents_models import Clients, Provider
from innkeeper.runtimes.openai_agents_pauses import Aside, Placed, edited, heed_marks, pause, restored
from innkeeper.runtimes.openai_agents_requests import adapted, client_tools, input_items, model_settings
from innkeeper.runtimes.openai_agents_steering import Intervention, goes_on, repeatable
from innkeeper.runtimes.openai_agents_tools import beside_own, function_of
from innkeeper.runtimes.relays import Emit, relayed
from innkeeper.runtimes.resumptions import Remainder, continued, remainder_of
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.steering import Steering
from innkeeper.runtimes.threads import Threads

_TEXT = ("response.output_text.delta", "response.refusal.delta")
_REASONING = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")


class OpenAIAgentsRuntime:
    """Runs an `agents.Agent`. `max_turns` bounds the model calls of one run."""

    kind = "openai-agents"

    def __init__(self, agent: Agent[Any], name: str, settings: RuntimeSettings, *, max_turns: int = 10) -> None:
        self._agent = agent
        self._name = name
        self._settings = settings
        self._threads = Threads(settings.max_threads, name)
        self._max_turns = max_turns
        self._clients = Clients(settings)
        heed_marks(agent)

    def describe(self) -> AgentDescription:
        model = self._agent.model
        return AgentDescription(
            self._name,
            model=model if isinstance(model, str) else getattr(model, "model", None),
            description=self._agent.handoff_description or "",
            tools=tuple(tool.name for tool in self._agent.tools),
            max_steps=self._max_turns,
            provider="openai",
            has_model=True,
            accepts_client_tools=True,
            accepts_models=True,
            resumes=goes_on(self._agent),
            pricing=pricing_of(self._agent),
        )

    def prompts(self) -> Prompts:
        told = self._agent.instructions
        return Prompts(told if isinstance(told, str) else None)

    def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent]:
        return relayed(partial(self._produce, turn, context), context, self._threads)

    async def close(self) -> None:
        """Close the model's connections of the running event loop."""
        await self._clients.close()

    async def _produce(self, turn: Turn, context: RunContext, emit: Emit) -> None:
        async with self._provider(turn.parameters.model, context) as provider:
            await self._perform(turn, context, emit, provider)

    async def _perform(self, turn: Turn, context: RunContext, emit: Emit, provider: Provider | None) -> None:
        paused = turn.continuation if turn.resumption is None else None  # else messages tell more than was put aside
        aside = await asyncio.to_thread(restored, paused) if paused else None
        rest = continued(turn, aside.step) if aside else remainder_of(turn, frozenset(repeatable(self._agent)))
        if not aside and rest.steps >= self._max_turns:
            raise AgentFailed(self._out_of_steps)
        tools = client_tools(self._agent, rest.parameters)
        of_session = await beside_own(self._agent, self._name, context, tools)
        narrator = _Narrator(emit, frozenset(tool.name for tool in tools), rest.steps, aside)
        intervention = Intervention(Steering(context, emit), narrator.end_step)
        config = self._config(rest.parameters, provider, narrator, intervention)
        for event in rest.told():
            await emit(event)
        again = await self._call_again(rest, narrator, intervention, context, config) if rest.again else ()
        agent = adapted(self._agent, rest.parameters, tools, [function_of(one, narrator) for one in of_session])
        said: Any = input_items((*rest.messages, *again))
        if aside:
            intervention.restore(aside.placed)
            agent = edited(agent, aside.edits)
            decided = await aside.decided(agent, context)
            narrator.reopen(decided.calls, decided.denied)
            said = decided.state
        result = intervention.result = Runner.run_streamed(
            agent,
            said,
            context=context,
            max_turns=self._max_turns - rest.steps,  # of a run that goes on, the SDK knows it
            hooks=intervention,
            run_config=config,
        )
        try:
            await self._tell(narrator, result, provider, intervention)
        finally:
            await _stop(result)

    def _config(
        self, parameters: Parameters, provider: Provider | None, narrator: _Narrator, intervention: Intervention
    ) -> RunConfig:
        uses_chat = provider is None or provider.uses_chat
        config = RunConfig(
            model_settings=model_settings(parameters, self._settings, self._agent.model_settings, uses_chat=uses_chat),
            tracing_disabled=True,
            tool_not_found_behavior="return_error_to_model",
            tool_error_formatter=narrator.note_failure,
            call_model_input_filter=intervention.add_injected,
        )
        if provider is not None:
            config.model_provider = provider
        if parameters.model is not None:
            config.model = parameters.model
        return config

    async def _call_again(
        self, rest: Remainder, narrator: _Narrator, intervention: Intervention, context: RunContext, config: RunConfig
    ) -> list[Message]:
        """Make the calls that an earlier attempt had begun, and return their results."""
        tools = repeatable(self._agent)
        narrator.reopen(rest.again)
        async with narrator.failures_told():
            calls = (intervention.call_again(use, tools[use.name], self._agent, context, config) for use in rest.again)
            outputs = await asyncio.gather(*calls)
        told = [await narrator.tell_result(use.id, output) for use, output in zip(rest.again, outputs, strict=True)]
        await narrator.end_step()
        return [Message("tool", text, tool_call_id=use.id) for use, text in zip(rest.again, told, strict=True)]

    async def _tell(
        self, narrator: _Narrator, result: RunResultStreaming, provider: Provider | None, intervention: Intervention
    ) -> None:
        try:
            await narrator.tell(result)
        except MaxTurnsExceeded as error:
            raise AgentFailed(self._out_of_steps) from error
        except ModelRefusalError:
            pass  # its text has been told, and it is the answer
        except ModelBehaviorError:
            # A model that was cut off before its first word has nothing else to complain about.
            if provider is None or provider.finish is None:
                raise
        if result.interruptions:
            await narrator.pause(result, intervention.placed)
        else:
            await narrator.end(result, provider.finish if provider else None)

    @property
    def _out_of_steps(self) -> str:
        return f"The agent used all of its {self._max_turns} steps without coming to an end."

    @asynccontextmanager
    async def _provider(self, wanted: str | None, context: RunContext) -> AsyncIterator[Provider | None]:
        async with AsyncExitStack() as stack:
            provider = None
            try:
                client = await stack.enter_async_context(self._clients.lent(context))
                provider = Provider(client, self._settings.environment)
            except AgentFailed:
                if not isinstance(self._agent.model, Model) or wanted is not None:
                    raise
                # else the agent brings a model with a client of its own
            yield provider


async def _stop(result: RunResultStreaming) -> None:
    result.cancel()
    if result.run_loop_task is not None:
        await asyncio.wait({result.run_loop_task})


class _Narrator:
    """Tells one run as core events."""

    def __init__(self, emit: Emit, client_tools: frozenset[str], step: int, aside: Aside | None) -> None:
        self._emit = emit
        self._client_tools = client_tools
        self._step = step
        self._is_in_step = False
        self._has_text = False
        self._client_calls: list[ToolCalled] = list(aside.clients) if aside else []
        self._open_calls: dict[str, tuple[str, float]] = {}
        self._failed_calls: set[str] = set()
        self._values: dict[str, object] = {}
        self._spent = Usage()

    def note_failure(self, failure: ToolErrorFormatterArgs[Any]) -> None:
        """The SDK tells of a call that failed; what the model is told stays the SDK's own sentence."""
        self._failed_calls.add(failure.call_id)

    def note_result(self, call_id: str, value: object) -> None:
        """What a tool of the session has returned, which its model is told as text."""
        self._values[call_id] = value

    def note_refusal(self, call_id: str) -> None:
        """A tool of the session has failed, and its model is told of it."""
        self._failed_calls.add(call_id)

    def reopen(self, calls: Iterable[ToolUse], denied: Iterable[str] = ()) -> None:
        """These calls of the last step were told, and are made now; but for those that were denied."""
        self._is_in_step = True
        self._open_calls = {use.id: (use.name, time.perf_counter()) for use in calls}
        self._failed_calls.update(denied)

    async def tell(self, result: RunResultStreaming) -> None:
        before = result.context_wrapper.usage  # of a run that goes on
        self._spent = Usage(before.input_tokens, before.output_tokens)
        try:
            async with self.failures_told():
                async for event in result.stream_events():
                    if event.type == "raw_response_event":
                        await self._tell_raw(event.data)
                    elif event.type == "run_item_stream_event":
                        await self._tell_item(event.item)
        except Exception:
            await self._tell_others(result)
            raise
        await self._tell_others(result)

    async def _tell_others(self, result: RunResultStreaming) -> None:
        """What agents have consumed that were asked as tools, on this run's account."""
        known, total = self._spent, result.context_wrapper.usage
        others = Usage(
            max(total.input_tokens - known.input_tokens, 0), max(total.output_tokens - known.output_tokens, 0)
        )
        if others.total_tokens:
            await self._emit(UsageReported(others))

    @asynccontextmanager
    async def failures_told(self) -> AsyncGenerator[None]:
        """Where the run fails, the calls that were under way are told to have failed."""
        try:
            yield
        except Exception as error:
            for call_id, (name, _) in self._open_calls.items():
                await self._emit(ToolReturned(name, call_id, error=f"The tool raised {type(error).__name__}."))
            raise

    async def pause(self, result: RunResultStreaming, placed: Sequence[Placed]) -> None:
        """The step waits for people, and what has not been told of it waits as well."""
        await self._emit(await asyncio.to_thread(pause, result, self._step, self._client_calls, placed))

    async def end(self, result: RunResultStreaming, reason: Any) -> None:
        """Close the last step, and give an output that no model wrote, such as a tool's result."""
        for call in self._client_calls:  # last, because nothing may follow a call that is the client's
            await self._emit(call)
        await self.end_step()
        output = result.final_output
        if self._client_calls:
            await self._emit(FinishNoted("tool_calls"))
        elif not self._has_text and output is not None:
            text = output if isinstance(output, str) else to_json(output, fallback=str).decode()
            await self._emit(TextDelta(text))
        if reason is not None and not self._client_calls:
            await self._emit(FinishNoted(reason))

    async def _tell_raw(self, event: Any) -> None:
        if event.type in _TEXT and event.delta:
            self._has_text = True
            await self._emit(TextDelta(event.delta))
        elif event.type in _REASONING and event.delta:
            await self._emit(ReasoningDelta(event.delta))
        elif event.type == "response.created":
            await self.end_step()
            self._step += 1
            self._is_in_step = True
            self._has_text = False
            await self._emit(StepChanged(self._step, "started"))
        elif event.type == "response.completed" and event.response.usage is not None:
            spent = event.response.usage
            usage = Usage(spent.input_tokens, spent.output_tokens, event.response.model)
            self._spent = self._spent.plus(usage)
            await self._emit(UsageReported(usage))

    async def end_step(self) -> None:
        """Tell that the step has ended, once."""
        if self._is_in_step:
            self._is_in_step = False
            await self._emit(StepChanged(self._step, "completed"))

    async def _tell_item(self, item: RunItem) -> None:
        match item:
            case ToolCallItem(raw_item=ResponseFunctionToolCall() as call) | HandoffCallItem(raw_item=call):
                await self._tell_call(call)
            case ToolCallOutputItem():
                await self.tell_result(item.call_id or "", item.output)
            case HandoffOutputItem(raw_item={"call_id": str(call_id)}):
                await self.tell_result(call_id, {"assistant": item.target_agent.name})

    async def _tell_call(self, call: ResponseFunctionToolCall) -> None:
        called = ToolCalled(call.name, call.call_id, call.arguments or "{}", call.name in self._client_tools)
        if called.is_client_side:
            self._client_calls.append(called)
            return
        if call.call_id in self._open_calls:
            return
        await self._emit(called)
        self._open_calls[call.call_id] = (call.name, time.perf_counter())

    async def tell_result(self, call_id: str, output: object) -> str:
        """Tell what a call has returned; the text of it, as the model is told."""
        result = to_jsonable_python(output, fallback=str, inf_nan_mode="null")
        if call_id in self._open_calls:
            name, began = self._open_calls.pop(call_id)
            elapsed = round((time.perf_counter() - began) * 1000, 3)
            if call_id in self._failed_calls:
                await self._emit(ToolReturned(name, call_id, error=str(output), duration_ms=elapsed))
            else:
                value = self._values.pop(call_id, result)
                await self._emit(ToolReturned(name, call_id, value, duration_ms=elapsed))
        return result if isinstance(result, str) else to_json(result).decode()
