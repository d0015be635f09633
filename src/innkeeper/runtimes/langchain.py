"""The runtime of LangChain runnables: chat models, chains, functions; `astream` in, core events out.

Its text is what the runnable itself yields, not what a model inside of it says; steps, tools and usage are told by
callbacks (`langchain_narration`). How the conversation becomes its input is `langchain_inputs`' affair. Graphs of
LangGraph, which are runnables as well, are hosted by `langgraph`. Importing this module imports `langchain_core`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import cached_property, partial
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig

from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.events import AgentEvent
from innkeeper.core.runs import Turn
from innkeeper.runtimes.functions import pricing_of
from innkeeper.runtimes.langchain_inputs import answer_of, given, schema_of
from innkeeper.runtimes.langchain_messages import converse, said, text_of
from innkeeper.runtimes.langchain_models import (
    asked,
    chat_model_of,
    models_in,
    name_of,
    takes_tools,
    tools_bound_to,
    with_tools,
)
from innkeeper.runtimes.langchain_narration import Narrator
from innkeeper.runtimes.outboxes import Outbox
from innkeeper.runtimes.relays import Emit, relayed
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.steering import Steering
from innkeeper.runtimes.threads import Threads


class LangChainRuntime:
    """Runs a `langchain_core.runnables.Runnable`. Each message that waits is given to it before it begins."""

    kind = "langchain"

    def __init__(self, runnable: Runnable[Any, Any], name: str, settings: RuntimeSettings) -> None:
        self._runnable = runnable
        self._name = name
        self._settings = settings
        self._threads = Threads(settings.max_threads, name)

    def describe(self) -> AgentDescription:
        return self._description

    @cached_property
    def _description(self) -> AgentDescription:
        model = next(iter(models_in(self._runnable)), None)
        can_call = takes_tools(self._runnable)
        return AgentDescription(
            self._name,
            model=None if model is None else name_of(model),
            tools=tools_bound_to(self._runnable),
            provider="langchain",
            has_model=can_call,
            accepts_client_tools=can_call,
            pricing=pricing_of(self._runnable),
        )

    def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent]:
        return relayed(partial(self._produce, turn, context), context, self._threads)

    async def _produce(self, turn: Turn, context: RunContext, emit: Emit) -> None:
        steering = Steering(context, emit)
        injected = [said(message.content) for message in await steering.received()]
        messages = [*converse(turn.messages), *injected]
        runnable, client_tools = with_tools(self._runnable, turn.parameters)
        runnable = _in_form(asked(runnable, turn.parameters, self._settings), turn.parameters.response_format)
        outbox = Outbox(emit)
        narrator = Narrator(outbox, steering, speaks=False, client_tools=client_tools)
        value = given(self._schema, messages, turn.parameters.variables, self._name)
        async with outbox.emptied():
            try:
                await _tell(runnable, value, config_of(turn, context, narrator), narrator)
            except Exception as error:
                narrator.fail(error)
                raise
            narrator.end()

    @cached_property
    def _schema(self) -> Any:
        return schema_of(self._runnable)


def _in_form(runnable: Runnable[Any, Any], form: object) -> Runnable[Any, Any]:
    """The chat model, asked for JSON as its provider's API has it; chains choose their own form."""
    return runnable if form is None or chat_model_of(runnable) is None else runnable.bind(response_format=form)


def config_of(turn: Turn, context: RunContext, narrator: Narrator) -> RunnableConfig:
    """What LangChain hands on to every part. A request's variables stand apart: fields that an author has made
    configurable, such as the address of a provider, are not a client's to choose.
    """
    names = {"session_id": context.session_id, "user_id": context.user_id, "agent_name": context.agent_name}
    told = {"innkeeper_run_id": context.run_id, **names}
    config = {
        "callbacks": [narrator],
        "configurable": {**names, "variables": dict(turn.parameters.variables or {})},
        "metadata": {**context.metadata, **{key: value for key, value in told.items() if value is not None}},
    }
    return cast("RunnableConfig", config)


async def _tell(runnable: Runnable[Any, Any], value: Any, config: RunnableConfig, narrator: Narrator) -> None:
    whole: Any = None
    stream = cast("AsyncGenerator[Any]", runnable.astream(value, config))
    async with aclosing(stream):
        async for chunk in stream:
            if isinstance(chunk, str):
                narrator.tell_text(chunk)
            elif isinstance(chunk, AIMessage):
                narrator.tell_text(text_of(chunk))
            else:
                whole = _joined(whole, chunk)
    if not narrator.has_text and whole is not None and (answer := answer_of(whole)):
        narrator.tell_text(answer)


def _joined(whole: Any, chunk: Any) -> Any:
    """What has come so far, as LangChain puts the pieces of an output together."""
    if whole is None or isinstance(chunk, BaseMessage):
        return chunk
    try:
        return whole + chunk
    except TypeError:
        return chunk
