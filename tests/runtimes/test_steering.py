"""Runtimes with a model while they are steered: what is injected, and what a tool may rely on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import agents
import pytest
from openai import AsyncOpenAI

from innkeeper.core.context import ToolCall, get_context, get_tool_call
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import AgentEvent, MessageInjected, StepChanged, TextDelta, ToolCalled, ToolReturned
from innkeeper.core.messages import Message, ToolUse
from innkeeper.runtimes.openai_agents import OpenAIAgentsRuntime
from innkeeper.runtimes.openai_agents_steering import Intervention
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.steering import Steering
from innkeeper.testing.lines import RecordedRun
from innkeeper.testing.runtimes import new_context
from tests.support.openai_upstream import Reply, Upstream
from tests.support.plays import only, text_of
from tests.support.steered import KINDS, heard, steered

Serve = Callable[..., Any]

ADD = Reply(calls=(("add", {"a": 1, "b": 2}),))


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@pytest.fixture(params=KINDS)
async def serve(upstream: Upstream, request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """`serve([tool], max_steps=3)` is a runtime of each kind in turn."""
    made: list[Any] = []

    def served(tools: Any = (), max_steps: int = 10) -> Any:
        made.append(steered(request.param, upstream, tools, max_steps))
        return made[-1]

    yield served
    for runtime in made:
        await runtime.close()


@pytest.fixture
def run() -> RecordedRun:
    context = new_context()
    context.run_id = "run_1"
    return RecordedRun(context)


def injecting(run: RecordedRun, *texts: str, at: type[Any] = ToolCalled) -> Callable[[AgentEvent], None]:
    """Inject each text at one event of that kind, in turn."""
    left = list(texts)

    def seen(event: AgentEvent) -> None:
        if isinstance(event, at) and left:
            run.inject(*left.pop(0).split("|"))

    return seen


async def test_injected_messages_follow_the_tools_results_and_stay_in_the_conversation(
    serve: Serve, run: RecordedRun, upstream: Upstream
) -> None:
    upstream.script([ADD, ADD, ADD, "done"])
    await run.play(serve([add]), "go", seen=injecting(run, "one|two", "three"))
    boundary = ["call add", "result 3"]
    assert heard(upstream.requests[1]) == ["user go", *boundary, "user one", "user two"]
    assert heard(upstream.requests[2]) == ["user go", *boundary, "user one", "user two", *boundary, "user three"]
    assert heard(upstream.requests[3]) == [*heard(upstream.requests[2]), *boundary]


async def test_the_log_has_a_message_between_the_steps_that_it_came_between(
    serve: Serve, run: RecordedRun, upstream: Upstream
) -> None:
    upstream.script([ADD, "done"])
    log = await run.play(serve([add]), "go", seen=injecting(run, "one"))
    kinds = [type(event) for event in log if not isinstance(event, TextDelta)]
    place = kinds.index(MessageInjected)
    assert only(MessageInjected, log) == [MessageInjected("one", "inj_1")]
    assert [event for event in log[: log.index(MessageInjected("one", "inj_1"))] if isinstance(event, ToolReturned)]
    assert kinds[place - 1] is kinds[place + 1] is StepChanged
    assert only(StepChanged, log) == [
        StepChanged(1, "started"),
        StepChanged(1, "completed"),
        StepChanged(2, "started"),
        StepChanged(2, "completed"),
    ]


async def test_messages_that_wait_already_join_the_first_model_call(
    serve: Serve, run: RecordedRun, upstream: Upstream
) -> None:
    run.inject("one", "two")
    log = await run.play(serve(), "go")
    assert heard(upstream.requests[0]) == ["user go", "user one", "user two"]
    assert log[:2] == [MessageInjected("one", "inj_1"), MessageInjected("two", "inj_2")]


async def test_the_same_text_injected_twice_is_said_twice(serve: Serve, run: RecordedRun, upstream: Upstream) -> None:
    run.inject("stop", "stop")
    await run.play(serve(), "stop")
    assert heard(upstream.requests[0]) == ["user stop"] * 3


async def test_a_message_that_comes_with_the_last_answer_is_left_to_the_server(
    serve: Serve, run: RecordedRun, upstream: Upstream
) -> None:
    upstream.script(["that is all"])
    await run.play(serve(), "go", seen=injecting(run, "late", at=TextDelta))
    assert [message.content for message in run.waiting] == ["late"]
    assert len(upstream.requests) == 1


async def test_a_run_out_of_steps_takes_no_message_that_no_model_will_read(
    serve: Serve, run: RecordedRun, upstream: Upstream
) -> None:
    upstream.script([ADD, ADD])
    with pytest.raises(AgentFailed, match="1 steps"):
        await run.play(serve([add], max_steps=1), "go", seen=injecting(run, "late"))
    assert [message.content for message in run.waiting] == ["late"]


async def test_no_tool_runs_before_the_calls_of_its_answer_are_on_disk(
    serve: Serve, run: RecordedRun, upstream: Upstream
) -> None:
    on_disk: list[list[str]] = []

    def look(n: int) -> str:
        on_disk.append([event.arguments for event in only(ToolCalled, run.log[: run.saved_events])])
        return "ok"

    upstream.script(
        [Reply("Well.", calls=(("look", {"n": 1}), ("look", {"n": 2}))), Reply(calls=(("look", {"n": 3}),))]
    )
    await run.play(serve([look]), "go")
    assert [len(calls) for calls in on_disk] == [2, 2, 3]


async def test_no_tool_runs_ahead_of_a_reader_who_is_slow(serve: Serve, run: RecordedRun, upstream: Upstream) -> None:
    said: list[tuple[int, int]] = []

    def look() -> str:
        on_disk = run.log[: run.saved_events]
        said.append((len(only(TextDelta, on_disk)), len(only(ToolCalled, on_disk))))
        return "ok"

    upstream.script([Reply("word " * 999 + "word", calls=(("look", {}),)), "done"])
    await run.play(serve([look]), "go", seen=injecting(run, "one"))
    assert said == [(1000, 1)]


async def test_a_tool_finds_its_call_in_threads_and_tasks_and_beside_others(
    serve: Serve, run: RecordedRun, upstream: Upstream
) -> None:
    found: dict[str, ToolCall | None] = {}
    both = threading.Barrier(2)

    def in_thread(n: int) -> str:
        both.wait(10)
        found[f"in_thread {n}"] = get_tool_call()
        return "ok"

    async def in_task(n: int) -> str:
        await asyncio.sleep(0)
        found[f"in_task {n}"] = get_tool_call()
        return "ok"

    calls = (("in_thread", {"n": 1}), ("in_thread", {"n": 2}), ("in_task", {"n": 3}), ("in_task", {"n": 4}))
    upstream.script([Reply(calls=calls), "done"])
    log = await run.play(serve([in_thread, in_task]), "go")
    told = only(ToolCalled, log)
    expected = [ToolCall(one.tool_call_id, one.tool_name, f"run_1:{one.tool_call_id}", 1) for one in told]
    assert [found[f"{name} {given['n']}"] for name, given in calls] == expected
    assert get_tool_call() is None


async def test_a_tool_in_a_thread_may_take_the_injected_messages_itself(
    serve: Serve, run: RecordedRun, upstream: Upstream
) -> None:
    taken: list[str] = []

    def listen() -> str:
        context = get_context()
        assert context is not None
        taken.extend(message.content for message in context.injections())
        return "ok"

    upstream.script([Reply(calls=(("listen", {}),)), "done"])
    await run.play(serve([listen]), "go", seen=injecting(run, "one"))
    assert taken == ["one"]
    assert heard(upstream.requests[1]) == ["user go", "call listen", "result ok"]


async def test_what_a_tool_took_itself_follows_its_result_in_later_turns(
    serve: Serve, run: RecordedRun, upstream: Upstream
) -> None:
    use = ToolUse("c1", "listen", "{}")
    before = [Message("user", "go"), Message("assistant", None, (use,)), Message("user", "one")]
    await run.play(serve(), *before, Message("tool", "ok", tool_call_id="c1"), Message("assistant", "done"), "next")
    told = heard(upstream.requests[0])
    assert told == ["user go", "call listen", "result ok", "user one", "assistant done", "user next"]


async def test_a_tool_that_waits_for_its_run_does_not_outlast_it(
    serve: Serve, run: RecordedRun, upstream: Upstream
) -> None:
    ended = threading.Event()
    asked, never = asyncio.Event(), asyncio.Event()

    async def receive() -> tuple[()]:
        asked.set()
        await never.wait()
        return ()

    def listen() -> str:
        context = get_context()
        assert context is not None
        run.receive = receive  # type: ignore[method-assign]  # a store that does not answer any more
        try:
            return "".join(message.content for message in context.injections())
        finally:
            ended.set()

    upstream.script([Reply(calls=(("listen", {}),)), "done"])
    playing = asyncio.create_task(run.play(serve([listen]), "go"))
    await asyncio.wait({asyncio.create_task(asked.wait())}, timeout=10)
    playing.cancel()
    await asyncio.wait({playing})
    assert playing.cancelled()
    never.set()
    assert await asyncio.to_thread(ended.wait, 10)


async def test_an_agent_that_is_a_tool_takes_no_messages_of_the_run_that_called_it(
    run: RecordedRun, upstream: Upstream
) -> None:
    expert = agents.Agent("expert", model="gpt-4o")
    asked = expert.as_tool("ask", "Ask an expert.")
    upstream.script([Reply(calls=(("ask", {"input": "why?"}),)), "because", "done"])
    settings = RuntimeSettings({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": upstream.url})
    runtime = OpenAIAgentsRuntime(agents.Agent("a", model="gpt-4o", tools=[asked]), "a", settings)
    log = await run.play(runtime, "go", seen=injecting(run, "one"))
    await runtime.close()
    assert heard(upstream.requests[1]) == ["user why?"]
    assert heard(upstream.requests[2]) == ["user go", "call ask", "result because", "user one"]
    assert text_of(log) == "done"


async def test_a_message_keeps_its_place_when_the_conversation_is_handed_over(
    run: RecordedRun, upstream: Upstream
) -> None:
    expert = agents.Agent("expert", model="gpt-4o", tools=[agents.function_tool(add)])
    upstream.script([ADD, Reply(calls=(("transfer_to_expert", {}),)), ADD, "done"])
    settings = RuntimeSettings({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": upstream.url})
    first = agents.Agent("a", model="gpt-4o", tools=[agents.function_tool(add)], handoffs=[expert])
    runtime = OpenAIAgentsRuntime(first, "a", settings)
    await run.play(runtime, "go", seen=injecting(run, "one"))
    await runtime.close()
    assert not runtime.describe().resumes
    assert heard(upstream.requests[3])[:4] == ["user go", "call add", "result 3", "user one"]
    assert heard(upstream.requests[3]).count("user one") == 1


async def test_a_message_outlives_a_handoff_that_rewrites_the_conversation(
    run: RecordedRun, upstream: Upstream
) -> None:
    def forget(data: agents.HandoffInputData) -> agents.HandoffInputData:
        return data.clone(input_history="a summary", pre_handoff_items=(), new_items=())

    expert = agents.Agent("expert", model="gpt-4o", tools=[agents.function_tool(add)])
    handed = agents.handoff(expert, input_filter=forget)
    upstream.script([ADD, Reply(calls=(("transfer_to_expert", {}),)), ADD, "done"])
    settings = RuntimeSettings({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": upstream.url})
    first = agents.Agent("a", model="gpt-4o", tools=[agents.function_tool(add)], handoffs=[handed])
    runtime = OpenAIAgentsRuntime(first, "a", settings)
    await run.play(runtime, "go", seen=injecting(run, "one"))
    await runtime.close()
    assert heard(upstream.requests[2]) == ["user a summary", "user one"]
    assert heard(upstream.requests[3]) == ["user a summary", "user one", "call add", "result 3"]


async def test_the_sdks_stream_is_read_to_its_end_before_tools_run_and_models_are_called(
    run: RecordedRun, upstream: Upstream
) -> None:
    read: list[str] = []
    at_start: list[int] = []
    at_model_call: list[int] = []

    async def look(n: int) -> str:
        at_start.append(len(read))
        return "ok"

    async def end_step() -> None:
        at_model_call.append(len(read))

    upstream.script([Reply(calls=(("look", {"n": 1}), ("look", {"n": 2}))), "done"])
    async with AsyncOpenAI(api_key="sk-1", base_url=upstream.url) as client:
        model = agents.OpenAIChatCompletionsModel("gpt-4o", client)
        agent: Any = agents.Agent("a", model=model, tools=[agents.function_tool(look)])
        intervention = Intervention(Steering(new_context(), _Nobody()), end_step)
        config = agents.RunConfig(tracing_disabled=True, call_model_input_filter=intervention.add_injected)
        result = agents.Runner.run_streamed(agent, "go", hooks=intervention, run_config=config)
        intervention.result = result
        async for event in result.stream_events():
            for _ in range(50):  # a reader that is slow
                await asyncio.sleep(0)
            read += [event.name] if event.type == "run_item_stream_event" else []
    assert at_start == [2, 2]
    assert at_model_call == [0, 4]


class _Nobody:
    """To whom nothing is told."""

    async def __call__(self, event: AgentEvent) -> None: ...

    async def caught_up(self) -> None: ...
