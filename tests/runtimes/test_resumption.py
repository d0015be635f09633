"""Runs that are taken up again after a crash: what is not done twice, and what is told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import agents
import pydantic_ai
import pytest
from pydantic_ai.exceptions import UsageLimitExceeded

from innkeeper.core.context import get_tool_call
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import StepChanged, ToolCalled, ToolReturned
from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.runs import Parameters, Resumption
from innkeeper.runtimes.openai_agents import OpenAIAgentsRuntime
from innkeeper.runtimes.pydantic_ai import PydanticAIRuntime
from innkeeper.runtimes.scripted import scripted_model
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.tools import tool
from innkeeper.services.assembling import UNKNOWN
from innkeeper.testing.lines import RecordedRun
from innkeeper.testing.runtimes import new_context
from tests.support.openai_upstream import Reply, Upstream
from tests.support.plays import only, text_of
from tests.support.steered import KINDS, heard, steered

Serve = Callable[..., Any]

PAY = ToolUse("c1", "pay", '{"n": 1}')
LOOK = ToolUse("c2", "look", '{"n": 2}')
LOOK_AGAIN = ToolUse("c3", "look", '{"n": 3}')


class Counter:
    """Two tools and the calls of each: `pay` must not happen twice, `look` may."""

    def __init__(self) -> None:
        self.paid: list[int] = []
        self.looked: list[int] = []
        self.keys: list[str] = []

    @property
    def tools(self) -> list[Callable[..., Any]]:
        def pay(n: int) -> str:
            self.paid.append(n)
            return f"paid {n}"

        @tool(idempotent=True)
        async def look(n: int) -> str:
            call = get_tool_call()
            assert call is not None
            self.looked.append(n)
            self.keys.append(f"{call.key} {call.attempt}")
            return f"saw {n}"

        return [pay, look]


@pytest.fixture
def counter() -> Counter:
    return Counter()


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
    context.run_id, context.attempt = "run_1", 2
    return RecordedRun(context)


def called(*uses: ToolUse, text: str | None = None) -> Message:
    return Message("assistant", text, uses, is_internal=True)


def answered(use: ToolUse, text: str) -> Message:
    return Message("tool", text, tool_call_id=use.id, is_internal=True)


async def test_what_is_done_is_not_done_again(
    serve: Serve, run: RecordedRun, upstream: Upstream, counter: Counter
) -> None:
    upstream.script(["done"])
    done: list[str | Message] = ["go", called(PAY, text="Paying."), answered(PAY, "paid 1")]
    log = await run.play(serve(counter.tools), *done, resumption=Resumption(2, 1))
    assert counter.paid == []
    assert [heard(one) for one in upstream.requests] == [["user go", "assistant Paying.", "call pay", "result paid 1"]]
    assert not only(ToolCalled, log) and not only(ToolReturned, log)
    assert text_of(log) == "done"


async def test_a_call_without_a_result_is_told_as_unknown_to_the_model_and_the_user(
    serve: Serve, run: RecordedRun, upstream: Upstream, counter: Counter
) -> None:
    upstream.script(["done"])
    log = await run.play(serve(counter.tools), "go", called(PAY), resumption=Resumption(2, 1, (PAY,)))
    assert counter.paid == []
    assert heard(upstream.requests[0]) == ["user go", "call pay", f"result {UNKNOWN}"]
    assert log[:2] == [ToolReturned("pay", "c1", error=UNKNOWN), StepChanged(1, "completed")]
    assert not only(ToolCalled, log)


async def test_an_idempotent_tool_is_called_again_with_the_same_key(
    serve: Serve, run: RecordedRun, upstream: Upstream, counter: Counter
) -> None:
    upstream.script(["done"])
    log = await run.play(serve(counter.tools), "go", called(LOOK), resumption=Resumption(2, 1, (LOOK,)))
    assert (counter.looked, counter.keys) == ([2], ["run_1:c2 2"])
    assert heard(upstream.requests[0]) == ["user go", "call look", "result saw 2"]
    (returned,) = only(ToolReturned, log)
    assert (returned.tool_name, returned.tool_call_id, returned.result) == ("look", "c2", "saw 2")
    assert not only(ToolCalled, log)
    assert only(StepChanged, log)[0] == StepChanged(1, "completed")


async def test_parallel_calls_are_each_treated_as_they_need(
    serve: Serve, run: RecordedRun, upstream: Upstream, counter: Counter
) -> None:
    paid_before = ToolUse("c0", "pay", '{"n": 0}')
    calls = (paid_before, PAY, LOOK, LOOK_AGAIN)
    done: list[str | Message] = ["go", called(*calls), answered(paid_before, "paid 0")]
    upstream.script(["done"])
    resumption = Resumption(2, 1, (PAY, LOOK, LOOK_AGAIN))
    log = await run.play(serve(counter.tools), *done, resumption=resumption)
    assert counter.paid == []
    assert sorted(counter.looked) == [2, 3]
    told = heard(upstream.requests[0])
    assert sorted(one for one in told if one.startswith("result")) == [
        f"result {UNKNOWN}",
        "result paid 0",
        "result saw 2",
        "result saw 3",
    ]
    assert [one for one in told if one.startswith("call")] == ["call pay", "call pay", "call look", "call look"]
    assert {event.tool_call_id for event in only(ToolReturned, log)} == {"c1", "c2", "c3"}
    assert not only(ToolCalled, log)


async def test_an_idempotent_call_keeps_what_the_model_said_with_it(
    serve: Serve, run: RecordedRun, upstream: Upstream, counter: Counter
) -> None:
    upstream.script(["done"])
    said = called(LOOK, text="Let me see.")
    await run.play(serve(counter.tools), "go", said, resumption=Resumption(2, 1, (LOOK,)))
    assert heard(upstream.requests[0]) == ["user go", "assistant Let me see.", "call look", "result saw 2"]


async def test_a_call_of_a_tool_that_is_gone_is_unknown(serve: Serve, run: RecordedRun, upstream: Upstream) -> None:
    upstream.script(["done"])
    log = await run.play(serve(), "go", called(LOOK), resumption=Resumption(2, 1, (LOOK,)))
    assert only(ToolReturned, log) == [ToolReturned("look", "c2", error=UNKNOWN)]
    assert heard(upstream.requests[0])[-1] == f"result {UNKNOWN}"


async def test_steps_go_on_counting(serve: Serve, run: RecordedRun, upstream: Upstream, counter: Counter) -> None:
    upstream.script([Reply(calls=(("pay", {"n": 5}),)), "done"])
    done: list[str | Message] = ["go", called(LOOK), answered(LOOK, "saw 2")]
    log = await run.play(serve(counter.tools), *done, resumption=Resumption(2, 1))
    assert counter.paid == [5]
    assert [(event.step_number, event.status) for event in only(StepChanged, log)] == [
        (2, "started"),
        (2, "completed"),
        (3, "started"),
        (3, "completed"),
    ]


async def test_max_steps_bounds_all_attempts_together(
    serve: Serve, run: RecordedRun, upstream: Upstream, counter: Counter
) -> None:
    upstream.script([Reply(calls=(("pay", {"n": 5}),))] * 5)
    done: list[str | Message] = ["go", called(LOOK), answered(LOOK, "saw 2")]
    with pytest.raises(AgentFailed, match="3 steps"):
        await run.play(serve(counter.tools, max_steps=3), *done, resumption=Resumption(2, 1))
    assert len(upstream.requests) == 2


async def test_a_run_whose_steps_were_used_up_makes_no_model_call(
    serve: Serve, run: RecordedRun, upstream: Upstream, counter: Counter
) -> None:
    done: list[str | Message] = ["go", called(LOOK), answered(LOOK, "saw 2")]
    with pytest.raises(AgentFailed, match="1 steps"):
        await run.play(serve(counter.tools, max_steps=1), *done, resumption=Resumption(2, 1))
    assert not upstream.requests


async def test_what_was_injected_before_the_crash_is_said_once_and_new_messages_follow(
    serve: Serve, run: RecordedRun, upstream: Upstream, counter: Counter
) -> None:
    upstream.script(["done"])
    done: list[str | Message] = ["go", called(LOOK), answered(LOOK, "saw 2"), "one"]
    run.inject("two")
    await run.play(serve(counter.tools), *done, resumption=Resumption(2, 1))
    assert heard(upstream.requests[0]) == ["user go", "call look", "result saw 2", "user one", "user two"]


async def test_messages_that_wait_follow_the_calls_that_are_made_again(
    serve: Serve, run: RecordedRun, upstream: Upstream, counter: Counter
) -> None:
    upstream.script(["done"])
    run.inject("one")
    await run.play(serve(counter.tools), "go", called(LOOK), resumption=Resumption(2, 1, (LOOK,)))
    assert heard(upstream.requests[0]) == ["user go", "call look", "result saw 2", "user one"]


async def test_a_run_that_had_done_nothing_begins(serve: Serve, run: RecordedRun, upstream: Upstream) -> None:
    upstream.script(["done"])
    log = await run.play(serve(), "go", resumption=Resumption(2, 1))
    assert heard(upstream.requests[0]) == ["user go"]
    assert (text_of(log), only(StepChanged, log)[0]) == ("done", StepChanged(2, "started"))


@pytest.mark.parametrize(("done", "is_demanded"), [([], True), ([called(LOOK), answered(LOOK, "saw 2")], False)])
async def test_a_demanded_tool_is_demanded_until_it_was_called(
    serve: Serve, run: RecordedRun, upstream: Upstream, counter: Counter, done: list[Message], is_demanded: bool
) -> None:
    upstream.script(["done"])
    demanded = Parameters(tool_choice="required")
    await run.play(serve(counter.tools), "go", *done, parameters=demanded, resumption=Resumption(2, 1))
    assert (upstream.requests[0].body.get("tool_choice") == "required") is is_demanded


async def test_an_idempotent_tool_that_fails_again_is_told_as_it_failed(
    serve: Serve, run: RecordedRun, upstream: Upstream
) -> None:
    @tool(idempotent=True)
    def look(n: int) -> str:
        raise ValueError("nothing there")

    runtime = serve([look])
    upstream.script(["done"])
    try:
        log = await run.play(runtime, "go", called(LOOK), resumption=Resumption(2, 1, (LOOK,)))
    except ValueError:  # as in any run of plain Pydantic AI
        log = run.log
    (returned,) = only(ToolReturned, log)
    assert returned.tool_call_id == "c2" and returned.error and returned.result is None
    assert not only(ToolCalled, log)


async def test_metadata_marks_a_tool_of_pydantic_ai(run: RecordedRun, counter: Counter) -> None:
    pay, look = counter.tools
    marked = pydantic_ai.Tool(pay, metadata={"idempotent": True})
    agent: Any = pydantic_ai.Agent(scripted_model(), tools=[marked])
    agent.tool_plain(look)
    runtime = PydanticAIRuntime(agent, "a", RuntimeSettings())
    resumption = Resumption(2, 1, (PAY, LOOK))
    log = await run.play(runtime, "go", called(PAY, LOOK), resumption=resumption)
    assert (counter.paid, counter.looked) == ([1], [2])
    assert text_of(log) == "pay returned paid 1. look returned saw 2."


async def test_the_mark_may_stand_above_the_sdks_own_decorator(
    run: RecordedRun, upstream: Upstream, counter: Counter
) -> None:
    pay, look = counter.tools
    tools: list[Any] = [tool(idempotent=True)(agents.function_tool(pay)), agents.function_tool(look)]
    settings = RuntimeSettings({"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": upstream.url})
    runtime = OpenAIAgentsRuntime(agents.Agent("a", model="gpt-4o", tools=tools), "a", settings)
    await run.play(runtime, "go", called(PAY, LOOK), resumption=Resumption(2, 1, (PAY, LOOK)))
    await runtime.close()
    assert (counter.paid, counter.looked) == ([1], [2])


@pytest.mark.parametrize(
    "changed", [{"tool_use_behavior": "stop_on_first_tool"}, {"handoffs": [agents.Agent("b")]}, {}]
)
def test_an_agent_of_the_sdk_goes_on_where_its_conversation_says_where_it_is(changed: dict[str, Any]) -> None:
    runtime = OpenAIAgentsRuntime(agents.Agent("a", **changed), "a", RuntimeSettings())
    assert runtime.describe().resumes is not bool(changed)


async def test_pydantic_ais_own_limit_bounds_all_attempts_together(run: RecordedRun) -> None:
    agent: Any = pydantic_ai.Agent(scripted_model())
    with pytest.raises(UsageLimitExceeded):
        await run.play(PydanticAIRuntime(agent, "a", RuntimeSettings()), "go", resumption=Resumption(2, 50))
