"""LangGraph graphs as runtimes, with models that need no provider."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime as GraphRuntime

from innkeeper.core.context import RunContext, get_context, get_tool_call
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
from innkeeper.core.identity import Owner
from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.runs import Parameters, Turn
from innkeeper.core.usage import Usage
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.detection import adapt, is_agent
from innkeeper.runtimes.langgraph import LangGraphRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.tools import tool as innkeeper_tool
from innkeeper.testing import RuntimeContract
from tests.support.graphs import Speaker, add, agent_graph, approval_graph, calling, echo, last_said, speak, usage
from tests.support.plays import cancelled_after, only, text_of

Collect = Callable[..., Awaitable[list[AgentEvent]]]
MakeContext = Callable[..., RunContext]

SETTINGS = RuntimeSettings()


def hosted(graph: Any) -> LangGraphRuntime:
    return LangGraphRuntime(graph, "agent", SETTINGS)


def of_node(node: Callable[..., Any], state: type[Any] = MessagesState, **compiled: Any) -> Any:
    """A graph of one node."""
    return StateGraph(state).add_node("node", node).add_edge(START, "node").compile(**compiled)


def counted(messages: list[BaseMessage]) -> AIMessage:
    return AIMessage(last_said(messages), usage_metadata=usage(5, 3))


class TestGraphContract(RuntimeContract):
    reported_usage = Usage(5, 3)

    def echo_runtime(self) -> Runtime:
        return hosted(agent_graph(Speaker(reply=counted)))

    def failing_runtime(self) -> Runtime:
        def fail(state: MessagesState) -> dict[str, Any]:
            raise RuntimeError("no")

        return hosted(of_node(fail))

    def slow_runtime(self) -> Runtime:
        def rest(state: MessagesState) -> dict[str, Any]:
            time.sleep(0.6)
            return {"messages": [AIMessage("rested")]}

        return hosted(of_node(rest))

    def tool_runtime(self) -> Runtime:
        return hosted(agent_graph(Speaker(reply=calling("add", a=1, b=2)), [add]))

    def steered_runtime(self) -> Runtime:
        return self.tool_runtime()

    def approval_runtime(self) -> Runtime:
        return hosted(approval_graph(Speaker(reply=calling("speak", text="one")), [speak]))


async def test_a_run_is_told_step_by_step(collect: Collect) -> None:
    def reply(messages: list[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage("It is 3.", usage_metadata=usage(20, 4))
        thought = [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Well, "}]
        call = {"name": "add", "args": {"a": 1, "b": 2}, "id": "c1", "type": "tool_call"}
        return AIMessage(thought, tool_calls=[call], usage_metadata=usage(10, 6))  # type: ignore[arg-type]

    events = await collect(hosted(agent_graph(Speaker(reply=reply), [add])), "1 + 2?")
    assert only(ReasoningDelta, events) == [ReasoningDelta("Hm.")]
    assert text_of(events) == "Well, It is 3."
    assert only(ToolCalled, events) == [ToolCalled("add", "c1", '{"a":1,"b":2}')]
    (returned,) = only(ToolReturned, events)
    assert (returned.tool_call_id, returned.result, returned.error) == ("c1", "3", None)
    assert returned.duration_ms is not None
    assert only(StepChanged, events) == [
        StepChanged(1, "started"),
        StepChanged(1, "completed"),
        StepChanged(2, "started"),
        StepChanged(2, "completed"),
    ]
    assert only(UsageReported, events) == [
        UsageReported(Usage(10, 6, "speaker-1")),
        UsageReported(Usage(20, 4, "speaker-1")),
    ]
    assert [event.content for event in only(TextDelta, events)][1:] == ["It", " is", " 3."]


async def test_the_conversation_reaches_the_model_with_its_tool_calls_and_pictures(collect: Collect) -> None:
    model = Speaker(reply=echo)
    picture = {"type": "image_url", "image_url": {"url": "https://example.invalid/a.png"}}
    await collect(
        hosted(agent_graph(model)),
        Message("system", "Be brief."),
        Message("user", "add"),
        Message("assistant", "Wait.", (ToolUse("c1", "add", '{"a":1}'), ToolUse("c2", "lost", "{}"))),
        Message("tool", "3", tool_call_id="c1"),
        Message("user", ({"type": "text", "text": "what?"}, picture)),
    )
    (heard,) = model.heard
    assert [type(one) for one in heard] == [SystemMessage, HumanMessage, AIMessage, ToolMessage, HumanMessage]
    said = heard[2]
    assert isinstance(said, AIMessage) and [call["id"] for call in said.tool_calls] == ["c1"]
    assert said.tool_calls[0]["args"] == {"a": 1}
    assert heard[4].content == [{"type": "text", "text": "what?"}, picture]


async def test_what_a_node_says_itself_is_told_and_what_its_model_said_is_told_once(collect: Collect) -> None:
    model = Speaker(reply=lambda _: AIMessage("From the model."))

    async def copied(state: MessagesState) -> dict[str, Any]:
        said = await model.ainvoke(state["messages"])
        return {"messages": [AIMessage(said.text), AIMessage(" From the node.")]}

    events = await collect(hosted(of_node(copied)))
    assert text_of(events) == "From the model. From the node."


async def test_a_structured_answer_is_told_as_json_where_nothing_was_said(collect: Collect) -> None:
    class Structured(MessagesState, total=False):
        structured_response: Any

    def make(state: Structured) -> dict[str, Any]:
        return {"structured_response": {"a": 1}, "messages": [ToolMessage("made", tool_call_id="c1")]}

    assert text_of(await collect(hosted(of_node(make, Structured)))) == '{"a":1}'


async def test_the_messages_of_a_graph_inside_a_graph_are_told_once(collect: Collect) -> None:
    inner = agent_graph(Speaker(reply=calling("add", a=1, b=2, then=lambda _: AIMessage("Three."))), [add])
    outer = StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile()
    history = (Message("user", "hi"), Message("assistant", "Hello."), Message("user", "1 + 2?"))
    events = await collect(hosted(outer), *history)
    assert text_of(events) == "Three."
    assert [len(only(kind, events)) for kind in (ToolCalled, ToolReturned)] == [1, 1]


async def test_what_a_node_streams_itself_is_read_as_what_a_function_yields(collect: Collect) -> None:
    def write(state: MessagesState) -> dict[str, Any]:
        writer = get_stream_writer()
        writer("Working. ")
        writer({"type": "reasoning", "content": "Hm."})
        writer({"progress": 0.5})
        return {"messages": [AIMessage("Done.")]}

    events = await collect(hosted(of_node(write)))
    assert events == [TextDelta("Working. "), ReasoningDelta("Hm."), TextDelta("Done.")]


async def test_models_that_are_silent_or_asked_by_a_tool_say_nothing_and_are_counted(collect: Collect) -> None:
    aside = Speaker(reply=lambda _: AIMessage("aside", usage_metadata=usage(1, 1)))
    router = aside.with_config(tags=["nostream"])

    @tool
    async def consult() -> str:
        """Asks another model."""
        return str((await aside.ainvoke("?")).text)

    model = Speaker(reply=calling("consult"))

    async def route(state: MessagesState) -> dict[str, Any]:
        await router.ainvoke(state["messages"])
        return {}

    graph = StateGraph(MessagesState).add_node("route", route).add_node("agent", agent_graph(model, [consult]))
    events = await collect(hosted(graph.add_edge(START, "route").add_edge("route", "agent").compile()), "hello")
    assert text_of(events) == "hello"
    assert sum(report.usage.total_tokens for report in only(UsageReported, events)) == 4
    assert [event.step_number for event in only(StepChanged, events) if event.status == "started"] == [1, 2, 3]
    assert [event.tool_name for event in only(ToolCalled, events)] == ["consult"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_model_that_is_asked_synchronously_streams_and_hangs_nothing(collect: Collect, is_async: bool) -> None:
    model = Speaker(reply=lambda _: AIMessage("one two three"))

    def sync_node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    async def async_node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    events = await asyncio.wait_for(collect(hosted(of_node(async_node if is_async else sync_node))), 10)
    assert [event.content for event in only(TextDelta, events)] == ["one", " two", " three"]


async def test_a_tool_that_fails_is_told_with_what_the_model_reads(collect: Collect) -> None:
    @tool
    def fail() -> str:
        """Fails."""
        raise ValueError("broken")

    graph = agent_graph(Speaker(reply=calling("fail")), [fail], handles_errors=True)
    events = await collect(hosted(graph), "hello")
    (returned,) = only(ToolReturned, events)
    assert returned.result is None and "broken" in (returned.error or "")
    assert text_of(events) == "hello"


async def test_a_run_that_fails_in_a_tool_tells_of_its_call(make_context: MakeContext) -> None:
    @tool
    def fail() -> str:
        """Fails."""
        raise ValueError("broken")

    runtime = hosted(agent_graph(Speaker(reply=calling("fail")), [fail]))
    told: list[AgentEvent | str] = []
    with pytest.raises(ValueError, match="broken"):
        async for event in runtime.run(Turn((Message("user", "go"),)), make_context()):
            told.append(event)
    assert [event.error for event in told if isinstance(event, ToolReturned)] == ["The tool raised ValueError."]


async def test_agent_code_finds_its_context_and_its_tool_call(collect: Collect, make_context: MakeContext) -> None:
    found: list[Any] = []

    @tool
    def look() -> str:
        """Looks around, in a thread."""
        found.append((get_context(), get_tool_call(), threading.current_thread()))
        return "seen"

    context = make_context()
    context.run_id = "run_1"
    await collect(hosted(agent_graph(Speaker(reply=calling("look")), [look])), context=context)
    ((there, call, thread),) = found
    assert there is context
    assert (call.name, call.id, call.key) == ("look", "call-1-0", "run_1:call-1-0")
    assert thread is not threading.main_thread()


async def test_allowed_tools_are_all_that_a_graph_has(collect: Collect) -> None:
    graph = agent_graph(Speaker(reply=calling("add", a=1, b=2)), [add, speak])
    events = await collect(hosted(graph), "hello", parameters=Parameters(allowed_tools=("speak",)))
    (returned,) = only(ToolReturned, events)
    assert "not a valid tool" in (returned.error or "")
    (returned,) = only(ToolReturned, await collect(hosted(graph), "hello"))
    assert returned.result == "3"


async def test_a_graph_that_does_not_end_fails_at_its_limit(collect: Collect) -> None:
    model = Speaker(reply=lambda messages: calling("add", a=1, b=len(messages))([]))
    graph = agent_graph(model, [add]).with_config(recursion_limit=5)
    with pytest.raises(AgentFailed, match="all of its 5 supersteps"):
        await collect(hosted(graph))
    assert len(model.heard) == 3


async def test_a_cancelled_run_ends_its_nodes(make_context: MakeContext) -> None:
    cancelled = asyncio.Event()

    async def wait(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()("waiting")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return {}

    await cancelled_after(TextDelta, hosted(of_node(wait)), make_context())
    await asyncio.wait_for(cancelled.wait(), 30)


class Question(TypedDict, total=False):
    question: str
    history: list[BaseMessage]
    answer: str


async def test_a_state_without_messages_is_given_text_and_answers_with_its_answer(collect: Collect) -> None:
    def answer(state: Question) -> Question:
        return {"answer": f"{state['question']} after {len(state['history'])}"}

    history = (Message("user", "a"), Message("assistant", "b"), Message("user", "c?"))
    assert text_of(await collect(hosted(of_node(answer, Question)), *history)) == "c? after 2"


class Numbers(TypedDict, total=False):
    a: int
    b: int
    total: int


async def test_a_state_of_other_fields_is_given_a_json_object(collect: Collect) -> None:
    runtime = hosted(of_node(lambda state: {"total": state["a"] + state["b"]}, Numbers))
    assert text_of(await collect(runtime, '{"a": 1, "b": 2}')) == '{"a":1,"b":2,"total":3}'
    variables = Parameters(variables={"a": 1, "b": 4, "other": 0})
    assert text_of(await collect(runtime, "{}", parameters=variables)) == '{"a":1,"b":4,"total":5}'
    with pytest.raises(AgentFailed, match="takes a, b, total: send a JSON object"):
        await collect(runtime, "three")


async def test_an_entrypoint_is_given_what_it_is_annotated_with(collect: Collect) -> None:
    @entrypoint()
    async def of_text(text: str) -> str:
        return text.upper()

    @entrypoint()
    def of_messages(messages: list) -> str:  # type: ignore[type-arg]  # as its users write it
        return f"{len(messages)} messages"

    assert text_of(await collect(hosted(of_text), "hello")) == "HELLO"
    assert text_of(await collect(hosted(of_messages), "hello")) == "1 messages"


@dataclass
class Asked:
    user_id: str | None
    language: str = "en"


async def test_a_context_schema_is_filled_with_variables_and_the_names_of_the_run(
    collect: Collect, make_context: MakeContext
) -> None:
    def tell(state: MessagesState, runtime: GraphRuntime[Asked]) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{runtime.context.user_id} {runtime.context.language}")]}

    graph = StateGraph(MessagesState, context_schema=Asked).add_node("tell", tell).add_edge(START, "tell").compile()
    context = make_context()
    context.user_id = "ann"
    variables = {"language": "de", "user_id": "somebody else", "unknown": 1}
    events = await collect(hosted(graph), context=context, parameters=Parameters(variables=variables))
    assert text_of(events) == "ann de"


async def test_two_owners_with_one_session_id_have_threads_of_their_own(
    make_context: MakeContext, collect: Collect
) -> None:
    threads: list[str] = []

    def note(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        threads.append(config["configurable"]["thread_id"])
        return {}

    for user in ("ann", "ann", "bob"):
        context = make_context()
        context.session_id, context.owner = "s-1", Owner("org", user)
        await collect(hosted(of_node(note)), context=context)
    assert threads[0] == threads[1] != threads[2]


class Durable(BaseCheckpointSaver[Any]):
    """A checkpointer that is not known to forget."""

    def __init__(self) -> None:
        super().__init__()
        self.held = InMemorySaver()
        for name in ("get_tuple", "aget_tuple", "alist", "aput", "aput_writes", "get_next_version"):
            setattr(self, name, getattr(self.held, name))

    async def aget_tuple(self, config: RunnableConfig) -> Any:
        raise NotImplementedError


async def test_a_graph_with_threads_of_its_own_is_told_what_is_new(collect: Collect, make_context: MakeContext) -> None:
    model = Speaker(reply=lambda messages: AIMessage(f"answer {len(messages)}"))
    runtime = hosted(agent_graph(model, checkpointer=Durable()))
    context = make_context()
    context.session_id, context.owner = "s-1", Owner("org", "ann")
    first = (Message("user", "one"),)
    second = (*first, Message("assistant", "answer 1"), Message("user", "two"))
    edited = (Message("user", "another"), Message("assistant", "answer 1"), Message("user", "two"))
    for said in (first, second, edited):
        await collect(runtime, *said, context=context)
    heard = [[str(one.text) for one in messages] for messages in model.heard]
    assert heard == [["one"], ["one", "answer 1", "two"], ["another", "answer 1", "two"]]


async def test_a_thread_that_was_left_amid_its_calls_is_told_the_whole(
    collect: Collect, make_context: MakeContext
) -> None:
    """As when a run is cancelled while its model speaks of what the tools have returned."""
    is_down = True

    def fail(messages: list[BaseMessage]) -> AIMessage:
        if is_down:
            raise RuntimeError("no")
        return AIMessage("well")

    model = Speaker(reply=calling("add", a=1, b=2, then=fail))
    runtime, context = hosted(agent_graph(model, [add], checkpointer=Durable())), make_context()
    context.session_id, context.owner = "s-1", Owner("org", "ann")
    with pytest.raises(RuntimeError):
        await collect(runtime, Message("user", "one"), context=context)
    is_down = False
    (call,) = model.heard[-1][1].tool_calls  # type: ignore[attr-defined]  # an AIMessage
    said = Message("assistant", "", tool_calls=(ToolUse(call["id"], "add", '{"a":1,"b":2}'),))
    told = Message("tool", "3", tool_call_id=call["id"])
    await collect(runtime, Message("user", "one"), said, told, Message("user", "two"), context=context)
    assert [one.type for one in model.heard[-1]] == ["human", "ai", "tool", "human"]


async def test_a_checkpointer_that_forgets_with_the_process_is_not_used(
    collect: Collect, make_context: MakeContext
) -> None:
    saver = InMemorySaver()
    await collect(hosted(agent_graph(Speaker(reply=echo), checkpointer=saver)), "hello")
    assert not saver.storage


async def test_a_state_that_nobody_can_serialise_is_no_obstacle(collect: Collect) -> None:
    class Held(MessagesState, total=False):
        lock: Any

    async def hold(state: Held) -> dict[str, Any]:
        return {"lock": threading.Lock()}

    def use(state: Held) -> dict[str, Any]:
        with state["lock"]:
            return {"messages": [AIMessage("held")]}

    graph = StateGraph(Held).add_node("hold", hold).add_node("use", use)
    assert text_of(await collect(hosted(graph.add_edge(START, "hold").add_edge("hold", "use").compile()))) == "held"


def test_a_description_names_the_model_and_the_tools() -> None:
    told = hosted(agent_graph(Speaker(reply=echo), [add, speak])).describe()
    assert (told.model, told.tools, told.provider, told.accepts_client_tools) == (
        "speaker-1",
        ("add", "speak"),
        "langgraph",
        False,
    )


def test_graphs_are_recognised_and_what_is_not_compiled_is_refused() -> None:
    graph = agent_graph(Speaker(reply=echo))
    assert isinstance(adapt(graph, "a", SETTINGS), LangGraphRuntime)
    assert is_agent(graph) and not is_agent(Speaker(reply=echo))
    with pytest.raises(SetupError, match="not compiled"):
        adapt(StateGraph(MessagesState), "a", SETTINGS)


def test_a_checkpointer_that_cannot_be_awaited_is_refused() -> None:
    class Blocking(BaseCheckpointSaver[Any]):
        pass

    class SqliteSaver(BaseCheckpointSaver[Any]):
        async def aget_tuple(self, config: RunnableConfig) -> None:
            raise NotImplementedError

    for saver in (Blocking(), SqliteSaver()):
        with pytest.raises(SetupError, match=r"not asynchronous.*AsyncSqliteSaver"):
            hosted(agent_graph(Speaker(reply=echo), checkpointer=saver))


async def test_nodes_that_hang_take_no_threads_of_the_server_nor_of_other_graphs(collect: Collect) -> None:
    hang, begun = threading.Event(), threading.Semaphore(0)

    def hanging(state: MessagesState) -> dict[str, Any]:
        begun.release()
        hang.wait(20)
        return {"messages": [AIMessage("late")]}

    def quick(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("quick")]}

    runtime = hosted(of_node(hanging))
    runs = [asyncio.ensure_future(collect(runtime)) for _ in range(40)]
    try:
        for _ in runs:
            assert await asyncio.wait_for(asyncio.to_thread(begun.acquire, timeout=10), 11)
        assert text_of(await asyncio.wait_for(collect(hosted(of_node(quick))), 30)) == "quick"
    finally:
        hang.set()
        assert {text_of(events) for events in await asyncio.gather(*runs)} == {"late"}


@pytest.mark.parametrize("is_inner", [False, True])
def test_a_tool_that_requires_approval_is_refused_where_nobody_would_ask(is_inner: bool) -> None:
    @tool
    @innkeeper_tool(requires_approval=True)
    def pay(amount: int) -> str:
        """Pays."""
        return "paid"

    graph = agent_graph(Speaker(reply=echo), [pay])
    if is_inner:
        graph = StateGraph(MessagesState).add_node("inner", graph).add_edge(START, "inner").compile()
    with pytest.raises(SetupError, match="'pay' of the graph 'agent' is marked requires_approval"):
        hosted(graph)


async def test_why_a_model_stopped_is_told(collect: Collect) -> None:
    model = Speaker(reply=lambda _: AIMessage("cut", response_metadata={"finish_reason": "length"}))
    assert only(FinishNoted, await collect(hosted(agent_graph(model)))) == [FinishNoted("length")]
