"""LangChain's runnables as runtimes, with models that need no provider."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableConfig, RunnableGenerator, RunnableLambda, RunnablePassthrough

from innkeeper.core.context import RunContext, get_context
from innkeeper.core.events import (
    AgentEvent,
    FinishNoted,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.core.messages import Message
from innkeeper.core.runs import Parameters
from innkeeper.core.usage import Usage
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.detection import adapt
from innkeeper.runtimes.langchain import LangChainRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.testing import RuntimeContract
from tests.support.graphs import Speaker, add, calling, echo, last_said, usage
from tests.support.plays import only, text_of

Collect = Callable[..., Awaitable[list[AgentEvent]]]
MakeContext = Callable[..., RunContext]

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def hosted(runnable: Any, **settings: Any) -> LangChainRuntime:
    return LangChainRuntime(runnable, "agent", RuntimeSettings(**settings))


class TestChatModelContract(RuntimeContract):
    reported_usage = Usage(5, 3)

    def echo_runtime(self) -> Runtime:
        return hosted(Speaker(reply=lambda messages: AIMessage(last_said(messages), usage_metadata=usage(5, 3))))

    def failing_runtime(self) -> Runtime:
        def fail(messages: list[BaseMessage]) -> AIMessage:
            raise RuntimeError("no")

        return hosted(Speaker(reply=fail))

    def slow_runtime(self) -> Runtime:
        def rest(text: str) -> str:
            time.sleep(0.6)
            return text

        return hosted(RunnableLambda(rest))

    def tool_runtime(self) -> Runtime:
        async def use(text: str) -> str:
            return str(await add.ainvoke({"a": 1, "b": 2}))

        return hosted(RunnableLambda(use))

    def client_tool_runtime(self) -> Runtime:
        class Asked(LangChainRuntime):
            def run(self, turn: Any, context: RunContext) -> AsyncIterator[AgentEvent]:
                from dataclasses import replace

                return super().run(replace(turn, parameters=Parameters(tools=(WEATHER,))), context)

        return Asked(Speaker(reply=calling("weather", city="Berlin")), "agent", RuntimeSettings())


async def test_a_chat_model_streams_and_is_told_as_a_step(collect: Collect) -> None:
    model = Speaker(reply=lambda _: AIMessage("one two", usage_metadata=usage(4, 2)))
    assert await collect(hosted(model)) == [
        StepChanged(1, "started"),
        TextDelta("one"),
        TextDelta(" two"),
        UsageReported(Usage(4, 2, "speaker-1")),
        StepChanged(1, "completed"),
    ]


async def test_a_model_of_langchains_own_is_hosted(collect: Collect) -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("hello there")]))
    assert [event.content for event in only(TextDelta, await collect(hosted(model)))] == ["hello", " ", "there"]


async def test_a_chain_is_given_its_fields_and_says_what_its_end_yields(collect: Collect) -> None:
    model = Speaker(reply=echo)
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Speak {language}."), MessagesPlaceholder("history"), ("user", "{input}")]
    )

    async def shout(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
        async for piece in pieces:
            yield piece.upper()

    chain = prompt | model | StrOutputParser() | RunnableGenerator(shout)
    history = (Message("user", "a"), Message("assistant", "b"), Message("user", "how are you"))
    events = await collect(hosted(chain), *history, parameters=Parameters(variables={"language": "English"}))
    assert [event.content for event in only(TextDelta, events)] == ["HOW", " ARE", " YOU"]
    assert [str(one.text) for one in model.heard[0]] == ["Speak English.", "a", "b", "how are you"]
    assert only(StepChanged, events) == [StepChanged(1, "started"), StepChanged(1, "completed")]


async def test_a_request_stands_above_the_server_in_what_its_models_know(collect: Collect) -> None:
    model = Speaker(reply=echo)
    runtime = hosted(RunnablePassthrough() | model | StrOutputParser(), temperature=0.5, max_tokens=10)
    await collect(runtime, parameters=Parameters(temperature=0.1, seed=7, stop=("END",)))
    assert model.wishes == [{"temperature": 0.1, "max_tokens": 10, "stop": ["END"]}]


async def test_a_chat_model_takes_the_tools_that_a_client_brings(collect: Collect) -> None:
    model = Speaker(reply=calling("weather", city="Berlin"))
    parameters = Parameters(tools=(WEATHER,), tool_choice="required")
    events = await collect(hosted(model), parameters=parameters)
    assert only(ToolCalled, events) == [ToolCalled("weather", "call-1-0", '{"city":"Berlin"}', True)]
    assert events[-1] == FinishNoted("tool_calls")
    assert model.wishes[0]["tools"] == [WEATHER] and model.wishes[0]["tool_choice"] == "any"
    told = hosted(model).describe()
    assert (told.model, told.has_model, told.accepts_client_tools) == ("speaker-1", True, True)
    bound = hosted(model.bind_tools([WEATHER])).describe()
    assert (bound.tools, bound.accepts_client_tools) == (("weather",), False)


async def test_a_tool_that_agent_code_calls_is_told(collect: Collect) -> None:
    async def use(text: str) -> str:
        return str(await add.ainvoke({"a": 1, "b": 2}))

    events = await collect(hosted(RunnableLambda(use)))
    (called,), (returned,) = only(ToolCalled, events), only(ToolReturned, events)
    assert (called.tool_name, called.arguments) == ("add", '{"a":1,"b":2}')
    assert (returned.tool_call_id, returned.result) == (called.tool_call_id, 3)
    assert text_of(events) == "3"


async def test_a_chain_that_hands_its_text_to_several_at_once_is_given_that_text(collect: Collect) -> None:
    def retrieve(asked: Any) -> str:
        return f"all about {asked}"

    prompt = ChatPromptTemplate.from_template("{context}: {question}")
    chain = (
        {"context": RunnableLambda(retrieve), "question": RunnablePassthrough()}
        | prompt
        | Speaker(reply=echo)
        | StrOutputParser()
    )
    assert text_of(await collect(hosted(chain), "cats")) == "all about cats: cats"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"output": "text", "more": 1}, "text"),
        ({"a": 1}, '{"a":1}'),
        (AIMessage("said"), "said"),
        ([HumanMessage("hi"), AIMessage("said")], "said"),
        (3, "3"),
        (None, ""),
    ],
)
async def test_whatever_a_runnable_returns_is_its_answer(collect: Collect, answer: Any, told: str) -> None:
    assert text_of(await collect(hosted(RunnableLambda(lambda _: answer)))) == told


async def test_an_output_that_comes_in_parts_is_told_once_it_is_whole(collect: Collect) -> None:
    model = Speaker(reply=lambda _: AIMessage('{"a": 1, "b": 2}'))
    assert text_of(await collect(hosted(model | JsonOutputParser()))) == '{"a":1,"b":2}'


async def test_a_model_that_completes_text_is_hosted(collect: Collect) -> None:
    assert text_of(await collect(hosted(FakeListLLM(responses=["hello"])))) == "hello"


async def test_a_runnable_finds_its_context_and_not_the_fields_of_a_client(
    collect: Collect, make_context: MakeContext
) -> None:
    found: list[Any] = []

    def look(text: str, config: RunnableConfig) -> str:
        found.append((get_context(), config["configurable"]))
        return text

    context = make_context()
    context.session_id = "s-1"
    variables = {"session_id": "other", "base_url": "https://evil.invalid"}
    await collect(hosted(RunnableLambda(look)), context=context, parameters=Parameters(variables=variables))
    ((there, configurable),) = found
    assert there is context
    assert configurable["session_id"] == "s-1" and "base_url" not in configurable
    assert configurable["variables"] == variables


def test_runnables_are_recognised() -> None:
    runnable = RunnableLambda(lambda text: text)
    for one in (runnable, Speaker(reply=echo), runnable | runnable):
        assert isinstance(adapt(one, "a", RuntimeSettings()), LangChainRuntime)


@pytest.mark.parametrize(("own", "asked"), [(None, 50), (20, 20), (70, 50)])
async def test_a_model_is_asked_for_what_its_run_can_pay_for_and_keeps_its_own_limit(
    collect: Collect, own: int | None, asked: int
) -> None:
    model = Speaker(reply=echo, max_tokens=own)
    await collect(hosted(model), parameters=Parameters(affordable_tokens=50))
    assert model.wishes[0]["max_tokens"] == asked
