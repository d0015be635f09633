"""Narration: what LangChain's callbacks tell of one run, as core events.

Callbacks come from whichever thread a model or a tool runs in; events leave in the order in which they were told,
on the loop that reads the run. A callback never waits, so that nothing in the framework can wait for itself.
A step is a model call with its tools; a model that a tool asks is no step, and its words are not the agent's.
Importing this module imports `langchain_core`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

from innkeeper.core.events import (
    AgentEvent,
    FinishNoted,
    FinishReason,
    ReasoningDelta,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.runtimes.chunks import usage_of as counted_of
from innkeeper.runtimes.langchain_messages import json_text, messages_in, reason_of, reasoning_of, text_of, usage_of
from innkeeper.runtimes.outboxes import Outbox
from innkeeper.runtimes.steering import Steering

T = TypeVar("T")

_SILENT = frozenset({"nostream", "langsmith:nostream"})
"""Tags by which LangGraph's users say that a model's words are not for the reader."""

UNANSWERED = "The agent did not answer this call."


@dataclass(slots=True)
class _ModelCall:
    step: int | None
    is_silent: bool
    model: str | None = None
    has_text: bool = False
    has_reasoning: bool = False


@dataclass(slots=True)
class _OpenCall:
    name: str
    arguments: str
    began: float = field(default_factory=time.perf_counter)
    failure: str | None = None


class Narrator(BaseCallbackHandler):
    """Tells one run. `speaks` says that what models say is the agent's text; else only its steps are told of them.

    `told` are the ids of calls that were told before the run was paused, and `opened` those that have no result yet,
    with their tools' names and their arguments.
    """

    run_inline = True  # else asyncio's threads would mix up the order

    def __init__(
        self,
        outbox: Outbox,
        steering: Steering,
        *,
        speaks: bool,
        client_tools: Iterable[str] = (),
        step: int = 0,
        opened: Mapping[str, Sequence[str]] | None = None,
        told: Iterable[str] = (),
    ) -> None:
        self.step = step
        self.has_text = False
        self._put = outbox.put
        self._steering = steering
        self._speaks = speaks
        self._client_tools = frozenset(client_tools)
        self._client_calls: list[ToolCalled] = []
        self._lock = threading.RLock()
        self._parents: dict[UUID, UUID | None] = {}
        self._models: dict[UUID, _ModelCall] = {}
        self._tools: dict[UUID, str | None] = {}
        self._open = {call_id: _OpenCall(call[0], call[1]) for call_id, call in (opened or {}).items()}
        self._told = {*told, *self._open}
        self._open_step: int | None = step if self._open else None
        self._seen: set[str] = set()
        self._texts: set[str] = set()
        self._reason: FinishReason | None = None

    @property
    def open_calls(self) -> dict[str, tuple[str, str]]:
        """The calls that have no result yet, by id: the names of their tools, and their arguments."""
        return {call_id: (call.name, call.arguments) for call_id, call in self._open.items()}

    @property
    def told_calls(self) -> list[str]:
        """The ids of all calls that were told."""
        return sorted(self._told)

    # What the runtimes tell.

    def know(self, messages: Iterable[object]) -> None:
        """These are there already, and no news."""
        self._seen.update(one.id for one in messages if isinstance(one, BaseMessage) and one.id)

    def tell_text(self, text: str) -> None:
        """Words that no model's callback told."""
        if text:
            with self._lock:
                self.has_text = True
                self._put(TextDelta(text))

    def tell_event(self, event: AgentEvent) -> None:
        """An event that the agent's own code made."""
        if isinstance(event, TextDelta):
            self.tell_text(event.content)
        else:
            self._put(event)

    def tell_update(self, update: object) -> None:
        """What a node has written: results of tools, and words that no model's callback told."""
        with self._lock:
            for message in messages_in(update):
                if isinstance(message, ToolMessage):
                    self._tell_message(message)
                elif isinstance(message, AIMessage):
                    self._tell_written(message)
                self.know([message])

    def end(self) -> None:
        """The run has come to its end."""
        self._close_calls(UNANSWERED)
        for call in self._client_calls:  # last, because nothing may follow a call that is the client's
            self._put(call)
        self._end_step()
        if self._client_calls:
            self._put(FinishNoted("tool_calls"))
        elif self._reason is not None:
            self._put(FinishNoted(self._reason))

    def fail(self, error: BaseException) -> None:
        """The run has failed, and with it the calls that were under way."""
        self._close_calls(f"The tool raised {type(error).__name__}.")

    def refuse(self, call_ids: Iterable[str], reason: str) -> None:
        """These calls are not made."""
        for call_id in call_ids:
            self._return(call_id, None, reason)

    # LangChain's callbacks.

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._parents[run_id] = parent_run_id

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._parents.pop(run_id, None)

    def on_chat_model_start(
        self,
        serialized: Any,
        messages: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        with self._lock:
            is_inner = self._is_in_tool(parent_run_id)
            model = (metadata or {}).get("ls_model_name")
            step = None if is_inner else self._begin_step()
            is_silent = is_inner or not self._speaks or not _SILENT.isdisjoint(tags or ())
            self._models[run_id] = _ModelCall(step, is_silent, model if isinstance(model, str) else None)

    def on_llm_start(self, serialized: Any, prompts: Any, **told: Any) -> None:
        """A model that completes text, instead of a conversation."""
        self.on_chat_model_start(serialized, prompts, **told)

    def on_llm_new_token(self, token: str | list[Any], *, chunk: Any = None, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            call = self._models.get(run_id)
            if call is None:
                return
            message = chunk.message if isinstance(chunk, ChatGenerationChunk) else None
            if call.step is not None and message is not None and (thought := reasoning_of(message)):
                call.has_reasoning = True
                self._put(ReasoningDelta(thought))
            text = text_of(message) if message is not None else str(token)
            if text and not call.is_silent:
                call.has_text = True
                self.has_text = True
                self._put(TextDelta(text))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            call = self._models.pop(run_id, None)
            generation = next((one[0] for one in response.generations if one), None)
            if call is None or generation is None:
                return
            if isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage):
                self._tell_answer(call, generation.message)
                return
            if not call.has_text and not call.is_silent:
                self.tell_text(generation.text)
            told = response.llm_output or {}
            if (counted := counted_of(told.get("token_usage"), told.get("model_name"))) is not None:
                self._put(UsageReported(counted))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._models.pop(run_id, None)

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        inputs: dict[str, Any] | None = None,
        tool_call_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        with self._lock:
            is_inner = self._is_in_tool(parent_run_id)
            self._parents[run_id] = parent_run_id
            self._tools[run_id] = None
            if is_inner:
                return
            name = str((serialized or {}).get("name") or "tool")
            call_id = tool_call_id or f"call_{run_id.hex}"
            if call_id not in self._told:  # the agent's own code calls it
                self._call(name, call_id, input_str if inputs is None else json_text(inputs))
            if (call := self._open.get(call_id)) is not None:
                call.began = time.perf_counter()
                self._tools[run_id] = call_id
            self._steering.enter_tool(call_id, name)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            self._parents.pop(run_id, None)
            call_id = self._tools.pop(run_id, None)
            if call_id is None:
                return
            answers = [one for one in _answers(output) if one.tool_call_id == call_id]
            if answers:
                self._tell_message(answers[0])
            elif call_id == f"call_{run_id.hex}":
                self._return(call_id, json.loads(json_text(output)))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            self._parents.pop(run_id, None)
            call_id = self._tools.pop(run_id, None)
            is_pause = any(kind.__name__ == "GraphBubbleUp" for kind in type(error).__mro__)
            if call_id is not None and (call := self._open.get(call_id)) is not None and not is_pause:
                # What the model is told of it comes with the node's update, or the run fails.
                call.failure = f"The tool raised {type(error).__name__}."
                if call_id == f"call_{run_id.hex}":
                    self._return(call_id, None, call.failure)

    # For models and roots to stream with LangChain's own callbacks, a handler has these two.

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[T]) -> AsyncIterator[T]:
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[T]) -> Iterator[T]:
        return output

    # How it is told.

    def _is_in_tool(self, run_id: UUID | None) -> bool:
        while run_id is not None:
            if run_id in self._tools:
                return True
            run_id = self._parents.get(run_id)
        return False

    def _begin_step(self) -> int:
        self._end_step()
        self.step = self._open_step = self.step + 1
        self._put(StepChanged(self.step, "started"))
        return self.step

    def _end_step(self) -> None:
        if self._open_step is not None:
            self._put(StepChanged(self._open_step, "completed"))
            self._open_step = None

    def _tell_answer(self, call: _ModelCall, message: AIMessage) -> None:
        self.know([message])
        text = text_of(message)
        if call.step is not None and not call.has_reasoning and (thought := reasoning_of(message)):
            self._put(ReasoningDelta(thought))
        if text and not call.is_silent:
            self._texts.add(text)
            if not call.has_text:
                self.tell_text(text)
        if (usage := usage_of(message, call.model)) is not None:
            self._put(UsageReported(usage))
        if call.step is not None:
            self._reason = reason_of(message)
            self._tell_calls(message)

    def _tell_written(self, message: AIMessage) -> None:
        """A message of a node's own. One that says what a model has just said is that model's, under a new id."""
        text = text_of(message)
        is_models = text in self._texts
        self._texts.discard(text)
        if message.id in self._seen:
            return
        if not is_models:
            self.tell_text(text)
        self._tell_calls(message)

    def _tell_calls(self, message: AIMessage) -> None:
        for call in message.tool_calls:
            call_id = call["id"] or f"call_{len(self._told) + 1}"
            if call_id not in self._told:
                self._call(call["name"], call_id, json_text(call["args"]))

    def _call(self, name: str, call_id: str, arguments: str) -> None:
        self._told.add(call_id)
        called = ToolCalled(name, call_id, arguments, name in self._client_tools)
        if called.is_client_side:
            self._client_calls.append(called)
            return
        self._open[call_id] = _OpenCall(name, arguments)
        self._put(called)

    def _tell_message(self, message: ToolMessage) -> None:
        text = text_of(message) if isinstance(message.content, str) else None
        result = json.loads(json_text(message.content)) if text is None else text
        call = self._open.get(message.tool_call_id)
        if message.status == "error" or (call is not None and call.failure is not None):
            self._return(message.tool_call_id, None, text if text is not None else json_text(result))
        else:
            self._return(message.tool_call_id, result)

    def _return(self, call_id: str, result: object, error: str | None = None) -> None:
        call = self._open.pop(call_id, None)
        if call is not None:
            elapsed = round((time.perf_counter() - call.began) * 1000, 3)
            self._put(ToolReturned(call.name, call_id, result, error, elapsed))

    def _close_calls(self, reason: str) -> None:
        with self._lock:
            for call_id, call in list(self._open.items()):
                self._return(call_id, None, call.failure or reason)


def _answers(output: object) -> list[ToolMessage]:
    """The results in what a tool returned: a message, or a command that updates a graph's state with some."""
    told = messages_in(getattr(output, "update", output))
    return [message for message in told if isinstance(message, ToolMessage)]
