"""Pydantic AI agents as runtimes: what is told of a run, and what reaches the model."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry
from pydantic_ai import RunContext as AgentContext
from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.tools import DeferredToolRequests, ToolDefinition
from pydantic_ai.toolsets import ExternalToolset

from innkeeper.core.context import RunContext, get_context
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
from innkeeper.core.runs import NO_PARAMETERS, Parameters, Turn
from innkeeper.core.usage import Usage
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.pydantic_ai import PydanticAIRuntime
from innkeeper.runtimes.scripted import scripted_model
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.testing import RuntimeContract

Collect = Callable[..., Awaitable[list[AgentEvent]]]
MakeContext = Callable[..., RunContext]
Script = Callable[[list[ModelMessage], AgentInfo], AsyncIterator[Any]]

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL_WEATHER = 'call weather {"city": "Paris"}'


def served(agent: Agent[Any, Any], **settings: Any) -> PydanticAIRuntime:
    return PydanticAIRuntime(agent, "agent", RuntimeSettings(**settings))


def scripted(**options: Any) -> Agent[Any, Any]:
    """An agent on the scripted model, which calls what a message of lines `call NAME ARGUMENTS` says."""
    return Agent(scripted_model(), **options)


def text_of(events: list[AgentEvent]) -> str:
    return "".join(event.content for event in events if isinstance(event, TextDelta))


def only(kind: type[Any], events: list[AgentEvent]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


class Ear:
    """A model that says "ok" and keeps what it was asked."""

    def __init__(self) -> None:
        self.messages: list[ModelMessage] = []
        self.info: AgentInfo | None = None
        self.agent: Agent[None, str] = Agent(FunctionModel(stream_function=self._answer))

    async def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        self.messages, self.info = messages, info
        yield "ok"

    @property
    def settings(self) -> dict[str, Any]:
        assert self.info is not None
        return dict(self.info.model_settings or {})

    @property
    def parts(self) -> list[Any]:
        return [part for message in self.messages for part in message.parts]


def add(a: int, b: int) -> int:
    return a + b


async def test_a_run_is_told_step_by_step(collect: Collect) -> None:
    events = await collect(served(scripted(tools=[add])), 'call add {"a": 1, "b": 2}')
    timeless = [
        ToolReturned(event.tool_name, event.tool_call_id, event.result) if isinstance(event, ToolReturned) else event
        for event in events
        if not isinstance(event, UsageReported)
    ]
    assert timeless == [
        StepChanged(1, "started"),
        ToolCalled("add", "call_1_0", '{"a": 1, "b": 2}'),
        ToolReturned("add", "call_1_0", 3),
        StepChanged(1, "completed"),
        StepChanged(2, "started"),
        TextDelta("add"),
        TextDelta(" returned"),
        TextDelta(" 3."),
        StepChanged(2, "completed"),
    ]
    assert len(only(UsageReported, events)) == 2


async def test_parallel_calls_are_all_told_before_the_first_result(collect: Collect) -> None:
    calls = 'call add {"a": 1, "b": 2}\ncall add {"a": 3, "b": 4}'
    events = await collect(served(scripted(tools=[add])), calls)
    tools = [event for event in events if isinstance(event, ToolCalled | ToolReturned)]
    assert [type(event) for event in tools] == [ToolCalled, ToolCalled, ToolReturned, ToolReturned]
    assert sorted(event.result for event in only(ToolReturned, events)) == [3, 7]


async def test_reasoning_is_told_apart_from_text(collect: Collect) -> None:
    async def think(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        yield {0: DeltaThinkingPart(content="Hm.")}
        yield {0: DeltaThinkingPart(content=" Well.")}
        yield "Yes."

    events = await collect(served(Agent(FunctionModel(stream_function=think))), "so?")
    assert "".join(event.content for event in only(ReasoningDelta, events)) == "Hm. Well."
    assert text_of(events) == "Yes."


async def test_the_conversation_reaches_the_model_with_its_tool_calls(collect: Collect) -> None:
    ear = Ear()
    await collect(
        served(ear.agent),
        Message("system", "Be brief."),
        Message("user", "add"),
        Message("assistant", "Wait.", (ToolUse("c1", "add", '{"a":1}'),)),
        Message("tool", "3", tool_call_id="c1"),
        Message("assistant", "3.", (ToolUse("c2", "lost", "{}"),)),
        Message("user", "thanks"),
    )
    assert ear.info is not None and ear.info.instructions == "Be brief."
    shown = [
        (type(part), getattr(part, "content", None) or part.args)
        for part in ear.parts
        if getattr(part, "tool_call_id", "") != "c2"
    ]
    assert shown == [
        (UserPromptPart, "add"),
        (TextPart, "Wait."),
        (ToolCallPart, '{"a":1}'),
        (ToolReturnPart, "3"),
        (TextPart, "3."),
        (UserPromptPart, "thanks"),
    ]
    answered = [part.tool_call_id for part in ear.parts if isinstance(part, ToolReturnPart)]
    assert sorted(answered) == ["c1", "c2"], "a call that nobody answered is closed, or the provider refuses it"


async def test_an_agents_system_prompt_is_there_in_every_turn(collect: Collect) -> None:
    ear = Ear()
    agent = Agent(ear.agent.model, system_prompt="You are an owl.")
    await collect(served(agent), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert ear.parts[0].content == "You are an owl."


async def test_pictures_and_files_reach_the_model_unfetched(collect: Collect) -> None:
    ear = Ear()
    data = base64.b64encode(b"png").decode()
    content = (
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "image_url", "image_url": {"url": "https://example.invalid/a.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
    )
    await collect(served(ear.agent), Message("user", content))
    text, picture, link, file = ear.parts[-1].content
    assert text == "what?"
    assert isinstance(picture, BinaryContent) and (picture.data, picture.media_type) == (b"png", "image/png")
    assert isinstance(link, ImageUrl) and link.url == "https://example.invalid/a.png"
    assert isinstance(file, BinaryContent) and (file.data, file.media_type) == (b"png", "application/pdf")


async def test_a_request_stands_above_the_server_and_both_above_the_agent(collect: Collect) -> None:
    ear = Ear()
    agent = Agent(ear.agent.model, model_settings={"temperature": 0.1, "max_tokens": 1, "top_p": 0.3, "seed": 1})
    asked = Parameters(temperature=0.9, seed=2, stop=("END",), presence_penalty=0.5, parallel_tool_calls=False)
    await collect(served(agent, temperature=0.5, max_tokens=5), "hi", parameters=asked)
    assert ear.settings == {
        "temperature": 0.9,
        "max_tokens": 5,
        "top_p": 0.3,
        "seed": 2,
        "stop_sequences": ["END"],
        "presence_penalty": 0.5,
        "parallel_tool_calls": False,
    }


async def test_a_clients_tool_ends_the_run_after_the_servers_own_tools(collect: Collect) -> None:
    asked = Parameters(tools=(WEATHER, {"type": "web_search"}))
    events = await collect(
        served(scripted(tools=[add])), f'{CALL_WEATHER}\ncall add {{"a": 1, "b": 2}}', parameters=asked
    )
    calls = [(event.tool_name, event.is_client_side) for event in only(ToolCalled, events)]
    assert calls == [("add", False), ("weather", True)]
    assert [event.tool_name for event in only(ToolReturned, events)] == ["add"]
    assert events[-1] == FinishNoted("tool_calls")
    assert text_of(events) == ""


async def test_a_clients_result_reaches_the_model_in_the_next_turn(collect: Collect) -> None:
    events = await collect(
        served(scripted(tools=[add])),
        Message("user", CALL_WEATHER),
        Message("assistant", None, (ToolUse("c1", "weather", '{"city": "Paris"}'),)),
        Message("tool", "sunny", tool_call_id="c1"),
        parameters=Parameters(tools=(WEATHER,)),
    )
    assert text_of(events) == "weather returned sunny."
    assert not only(ToolCalled, events)


async def test_a_demanded_tool_is_not_demanded_again_once_it_was_called(collect: Collect) -> None:
    choices: list[Any] = []

    async def script(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        choices.append((info.model_settings or {}).get("tool_choice"))
        async for piece in _calling("add", a=1, b=2)(messages, info):
            yield piece

    runtime = served(_agent(script, tools=[add]))
    assert text_of(await collect(runtime, "hi", parameters=Parameters(tool_choice="required"))) == "done"
    assert choices == ["required", None]


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("required", ["add"]),
        ({"type": "function", "function": {"name": "weather"}}, ["weather"]),
        ("auto", []),
        ("none", []),
        (None, []),
    ],
)
async def test_a_tool_choice_binds_the_first_model_call(collect: Collect, choice: Any, called: list[str]) -> None:
    asked = Parameters(tools=(WEATHER,), tool_choice=choice)
    events = await collect(served(scripted(tools=[add])), "hello", parameters=asked)
    assert [event.tool_name for event in only(ToolCalled, events)] == called


async def test_allowed_tools_narrow_the_agents_tools(collect: Collect) -> None:
    ear = Ear()
    agent = Agent(ear.agent.model, tools=[add, sorted_words])
    await collect(served(agent), "hi", parameters=Parameters(allowed_tools=("add",), tools=(WEATHER,)))
    assert ear.info is not None
    assert sorted(tool.name for tool in ear.info.function_tools) == ["add", "weather"]


def sorted_words(text: str) -> str:
    return " ".join(sorted(text.split()))


class City(BaseModel):
    name: str
    people: int


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "city", "schema": City.model_json_schema()}},
    ],
)
async def test_a_response_format_makes_the_text_json(collect: Collect, wanted: dict[str, Any]) -> None:
    events = await collect(served(scripted()), "hi", parameters=Parameters(response_format=wanted))
    assert len(only(TextDelta, events)) > 1, "it is streamed as the model writes it"
    answer = json.loads(text_of(events))
    if wanted["type"] == "json_schema":
        City.model_validate(answer)


async def test_a_structured_output_is_yielded_as_json(collect: Collect) -> None:
    events = await collect(served(scripted(output_type=City)), "hi")
    assert City.model_validate_json(text_of(events)) == City(name="a", people=0)


async def test_a_validated_text_is_yielded_once_it_is_valid(collect: Collect) -> None:
    agent = scripted()
    seen: list[str] = []

    @agent.output_validator
    def refuse_the_first(text: str) -> str:
        seen.append(text)
        if len(seen) == 1:
            raise ModelRetry("again")
        return "valid"

    assert text_of(await collect(served(agent), "hi")) == "valid"
    assert not served(agent).describe().accepts_client_tools


async def test_a_tool_that_asks_for_a_retry_is_told_as_an_error(collect: Collect) -> None:
    def picky() -> str:
        raise ModelRetry("say please")

    events = await collect(served(scripted(tools=[picky])), "call picky {}")
    (returned,) = only(ToolReturned, events)
    assert "say please" in returned.error
    assert text_of(events)


async def test_a_tool_that_raises_fails_the_run_and_keeps_its_secret(
    collect: Collect, make_context: MakeContext
) -> None:
    def leak() -> str:
        raise RuntimeError("password=hunter2")

    runtime, events = served(scripted(tools=[leak])), []
    with pytest.raises(RuntimeError):
        async for event in runtime.run(Turn((Message("user", "call leak {}"),)), make_context()):
            events.append(event)
    assert events[-1] == ToolReturned("leak", "call_1_0", error="The tool raised RuntimeError.")


async def test_tools_find_the_runs_context_in_threads_and_tasks(collect: Collect, make_context: MakeContext) -> None:
    found: list[tuple[Any, bool]] = []

    def sync_tool() -> str:
        found.append((get_context(), threading.current_thread() is threading.main_thread()))
        return "ok"

    async def async_tool() -> str:
        found.append((get_context(), threading.current_thread() is threading.main_thread()))
        return "ok"

    context = make_context()
    agent = scripted(tools=[sync_tool, async_tool])
    await collect(served(agent), "call sync_tool {}\ncall async_tool {}", context=context)
    assert sorted(found, key=lambda one: one[1]) == [(context, False), (context, True)]
    assert get_context() is None


async def test_max_threads_bounds_the_synchronous_tools_at_work(collect: Collect) -> None:
    at_work, most = 0, 0

    def work() -> str:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        threading.Event().wait(0.02)
        at_work -= 1
        return "ok"

    await collect(served(scripted(tools=[work]), max_threads=2), "\n".join(["call work {}"] * 6))
    assert most == 2


async def test_an_agent_may_have_the_context_as_its_deps(collect: Collect, make_context: MakeContext) -> None:
    agent = Agent(scripted_model(), deps_type=RunContext)

    @agent.tool
    def whose(context: AgentContext[RunContext]) -> str | None:
        return context.deps.user_id

    context = make_context()
    context.user_id = "ada"
    assert text_of(await collect(served(agent), "call whose {}", context=context)) == "whose returned ada."


async def test_usage_is_the_frameworks_and_named_after_the_model(collect: Collect) -> None:
    events = await collect(served(scripted()), "hello")
    assert only(UsageReported, events) == [UsageReported(Usage(50, 4, "test"))]


async def test_cancelling_in_a_model_call_closes_the_models_stream(make_context: MakeContext) -> None:
    closed = asyncio.Event()

    async def endless(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    await _cancelled_after(TextDelta, served(Agent(FunctionModel(stream_function=endless))), make_context())
    await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize("is_async", [True, False])
async def test_cancelling_in_a_tool_does_not_wait_for_it(make_context: MakeContext, is_async: bool) -> None:
    release = threading.Event()
    cancelled = asyncio.Event()

    async def wait_in_task() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return ""

    def wait_in_thread() -> str:
        release.wait(30)
        return ""

    tool = wait_in_task if is_async else wait_in_thread
    runtime = served(scripted(tools=[tool]))
    try:
        await asyncio.wait_for(_cancelled_after(ToolCalled, runtime, make_context(), f"call {tool.__name__} {{}}"), 5)
    finally:
        release.set()
    assert cancelled.is_set() is is_async


async def _cancelled_after(kind: type[Any], runtime: Runtime, context: RunContext, said: str = "go") -> None:
    seen = asyncio.Event()

    async def read() -> None:
        async for event in runtime.run(Turn((Message("user", said),), NO_PARAMETERS), context):
            if isinstance(event, kind):
                seen.set()

    reading = asyncio.create_task(read())
    await asyncio.wait_for(seen.wait(), 5)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_reader_that_leaves_ends_the_run(make_context: MakeContext) -> None:
    runtime = served(scripted())
    events = runtime.run(Turn((Message("user", "a b c d"),)), make_context())
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]  # it is a generator
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


async def test_a_description_names_model_and_tools(collect: Collect) -> None:
    described = served(Agent("openai:gpt-4o", tools=[add], instructions="secret", defer_model_check=True)).describe()
    assert (described.model, described.provider, described.tools) == ("openai:gpt-4o", "openai", ("add",))
    assert described.has_model and described.accepts_client_tools
    assert "secret" not in repr(described)


class TestPydanticAI(RuntimeContract):
    secrets = ("the cellar key",)
    reported_usage = Usage(50, 1)

    def echo_runtime(self) -> Runtime:
        return served(_agent(_echo, instructions="the cellar key"))

    def failing_runtime(self) -> Runtime:
        return served(_agent(_fail))

    def slow_runtime(self) -> Runtime:
        def slow() -> str:
            threading.Event().wait(0.6)
            return ""

        return served(_agent(_calling("slow"), tools=[slow]))

    def tool_runtime(self) -> Runtime:
        return served(_agent(_calling("add", a=1, b=2), tools=[add]))

    def client_tool_runtime(self) -> Runtime:
        outside = ExternalToolset([ToolDefinition(name="weather")])
        agent = _agent(_calling("weather"), toolsets=[outside], output_type=[str, DeferredToolRequests])
        return served(agent)


def _agent(script: Script, **options: Any) -> Agent[Any, Any]:
    return Agent(FunctionModel(stream_function=script), **options)


async def _echo(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    yield messages[-1].parts[-1].content  # type: ignore[union-attr,misc]  # the user's text


async def _fail(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    yield "well"
    raise RuntimeError("no")


def _calling(tool: str, **arguments: Any) -> Script:
    async def script(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        if any(isinstance(message, ModelResponse) for message in messages):
            yield "done"
        else:
            yield {0: DeltaToolCall(tool, json.dumps(arguments), tool_call_id="c1")}

    return script
