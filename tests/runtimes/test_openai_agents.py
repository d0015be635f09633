"""OpenAI Agents SDK agents as runtimes, against a provider that speaks both of OpenAI's APIs."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from agents import Agent, ModelSettings, function_tool
from pydantic import BaseModel

from innkeeper.core.context import RunContext, get_context
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
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.openai_agents import OpenAIAgentsRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.testing import RuntimeContract
from tests.support.openai_upstream import Reply, Upstream
from tests.support.plays import cancelled_after, only, text_of

Collect = Callable[..., Awaitable[list[AgentEvent]]]
MakeContext = Callable[..., RunContext]
Serve = Callable[..., OpenAIAgentsRuntime]

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture(params=["chat_completions", "responses"])
async def serve(upstream: Upstream, request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """`serve(name="a", tools=[…])` serves such an agent over each of the two APIs."""
    runtimes: list[OpenAIAgentsRuntime] = []

    def served(settings: dict[str, Any] | None = None, max_turns: int = 10, **agent: Any) -> OpenAIAgentsRuntime:
        environment = {
            "OPENAI_API_KEY": "sk-1",
            "OPENAI_BASE_URL": upstream.url,
            "OPENAI_ORGANIZATION": "org-1",
            "OPENAI_AGENTS_API": request.param,
        }
        made = Agent(**{"name": "a", "model": "gpt-4o", **agent})
        runtime = OpenAIAgentsRuntime(
            made, "agent", RuntimeSettings(environment, **(settings or {})), max_turns=max_turns
        )
        runtimes.append(runtime)
        return runtime

    yield served
    for runtime in runtimes:
        await runtime.close()


@function_tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def spoken(upstream: Upstream, at: int = -1) -> list[dict[str, Any]]:
    """What the model was told, instructions apart, in the form of either API."""
    body = upstream.requests[at].body
    said: list[dict[str, Any]] = body["messages"] if "messages" in body else body["input"]
    return [message for message in said if message.get("role") != "system"]


async def test_a_run_is_told_step_by_step(collect: Collect, serve: Serve, upstream: Upstream) -> None:
    upstream.script([Reply("Well, ", calls=(("add", {"a": 1, "b": 2}),), reasoning="Hm."), "it is 3."])
    events = await collect(serve(tools=[add]), "1 + 2?")
    calls = only(ToolCalled, events)
    assert [(call.tool_name, json.loads(call.arguments), call.is_client_side) for call in calls] == [
        ("add", {"a": 1, "b": 2}, False)
    ]
    (returned,) = only(ToolReturned, events)
    assert (returned.result, returned.error, returned.tool_call_id) == (3, None, calls[0].tool_call_id)
    assert only(StepChanged, events) == [
        StepChanged(1, "started"),
        StepChanged(1, "completed"),
        StepChanged(2, "started"),
        StepChanged(2, "completed"),
    ]
    assert only(ReasoningDelta, events) == [ReasoningDelta("Hm.")]
    assert text_of(events) == "Well, it is 3."
    assert only(UsageReported, events) == [UsageReported(Usage(11, 7, "gpt-4o"))] * 2


async def test_keys_come_from_the_settings(collect: Collect, serve: Serve, upstream: Upstream) -> None:
    await collect(serve(), "hi")
    headers = upstream.requests[0].headers
    assert (headers["authorization"], headers["openai-organization"]) == ("Bearer sk-1", "org-1")


async def test_parallel_calls_are_all_told_before_the_first_result(
    collect: Collect, serve: Serve, upstream: Upstream
) -> None:
    upstream.script([Reply(calls=(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}))), "done"])
    events = await collect(serve(tools=[add]), "go")
    tools = [event for event in events if isinstance(event, ToolCalled | ToolReturned)]
    assert [type(event) for event in tools] == [ToolCalled, ToolCalled, ToolReturned, ToolReturned]
    assert sorted(event.result for event in only(ToolReturned, events)) == [3, 7]


async def test_the_conversation_reaches_the_model_with_its_tool_calls(
    collect: Collect, serve: Serve, upstream: Upstream
) -> None:
    uses = (ToolUse("c1", "add", '{"a":1}'), ToolUse("c2", "lost", "{}"))
    await collect(
        serve(),
        Message("user", "add"),
        Message("assistant", "Wait.", uses),
        Message("tool", "3", tool_call_id="c1"),
        Message("assistant", "3."),
        Message("user", "thanks"),
    )
    told = json.dumps(spoken(upstream))
    places = [told.index(one) for one in ('"add"', "Wait.", "c1", "3.", "thanks")]
    assert places == sorted(places)
    assert "c2" not in told, "a call that nobody answered would be refused by the provider"


async def test_a_clients_instructions_and_pictures_reach_the_model(
    collect: Collect, serve: Serve, upstream: Upstream
) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.invalid/a.png"}}
    said = Message("user", ({"type": "text", "text": "what?"}, picture))
    await collect(serve(instructions="Be kind."), Message("system", "Be brief."), said)
    told = json.dumps(upstream.requests[0].body)
    assert all(one in told for one in ("Be kind.", "Be brief.", "what?", "https://example.invalid/a.png"))


async def test_a_request_stands_above_the_server_and_both_above_the_agent(
    collect: Collect, serve: Serve, upstream: Upstream
) -> None:
    own = ModelSettings(temperature=0.1, top_p=0.3, max_tokens=1)
    runtime = serve(settings={"temperature": 0.5, "max_tokens": 5}, model_settings=own)
    await collect(runtime, "hi", parameters=Parameters(temperature=0.9))
    body = upstream.requests[0].body
    assert (body["temperature"], body["top_p"]) == (0.9, 0.3)
    assert body.get("max_tokens", body.get("max_output_tokens")) == 5
    assert own.temperature == 0.1


async def test_a_clients_tool_ends_the_run_after_the_servers_own_tools(
    collect: Collect, serve: Serve, upstream: Upstream
) -> None:
    upstream.script([Reply(calls=(("weather", {"city": "Rome"}), ("add", {"a": 1, "b": 2})))])
    asked = Parameters(tools=(WEATHER, {"type": "web_search"}))
    runtime = serve(tools=[add])
    events = await collect(runtime, "go", parameters=asked)
    calls = [(event.tool_name, event.is_client_side) for event in only(ToolCalled, events)]
    assert calls == [("add", False), ("weather", True)]
    assert [event.tool_name for event in only(ToolReturned, events)] == ["add"]
    assert events[-1] == FinishNoted("tool_calls")
    assert text_of(events) == ""
    assert len(upstream.requests) == 1
    assert runtime.describe().tools == ("add",), "the user's agent is as it was"


async def test_a_clients_result_reaches_the_model_in_the_next_turn(
    collect: Collect, serve: Serve, upstream: Upstream
) -> None:
    events = await collect(
        serve(),
        Message("user", "weather?"),
        Message("assistant", None, (ToolUse("c1", "weather", "{}"),)),
        Message("tool", "sunny", tool_call_id="c1"),
        parameters=Parameters(tools=(WEATHER,)),
    )
    assert text_of(events) == "You said: weather?"
    assert "sunny" in json.dumps(spoken(upstream)[-1])


async def test_a_handoff_is_told_as_a_call_and_its_result(collect: Collect, serve: Serve, upstream: Upstream) -> None:
    expert = Agent(name="Expert", model="gpt-4o-mini", instructions="You know.")
    upstream.script([Reply(calls=(("transfer_to_expert", {}),)), "I know."])
    events = await collect(serve(handoffs=[expert]), "help")
    assert [event.tool_name for event in only(ToolCalled, events)] == ["transfer_to_expert"]
    assert [event.result for event in only(ToolReturned, events)] == [{"assistant": "Expert"}]
    assert text_of(events) == "I know."
    assert upstream.requests[1].body["model"] == "gpt-4o-mini"


async def test_too_many_steps_fail_the_run_and_say_so(collect: Collect, serve: Serve, upstream: Upstream) -> None:
    upstream.script([Reply(calls=(("add", {"a": 1, "b": 2}),))] * 9)
    with pytest.raises(AgentFailed, match="2 steps"):
        await collect(serve(tools=[add], max_turns=2), "go")
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("reason", ["length", "content_filter"])
@pytest.mark.parametrize("text", ["cut off", ""])
async def test_an_answer_cut_off_keeps_its_text_and_says_why(
    collect: Collect, serve: Serve, upstream: Upstream, reason: Any, text: str
) -> None:
    upstream.script([Reply(text, finish=reason)])
    events = await collect(serve(), "go")
    assert text_of(events).startswith(text)
    assert events[-1] == FinishNoted(reason)


async def test_usage_that_the_provider_does_not_give_is_not_invented(
    collect: Collect, serve: Serve, upstream: Upstream
) -> None:
    upstream.script([Reply("hi", usage=None)])
    assert not only(UsageReported, await collect(serve(), "go"))


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
async def test_a_response_format_reaches_the_model_and_the_text_is_its_json(
    collect: Collect, serve: Serve, upstream: Upstream, kind: str
) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    wanted: dict[str, Any] = {"type": kind}
    if kind == "json_schema":
        wanted["json_schema"] = {"name": "place", "schema": schema}
    upstream.script(['{"city": "Rome"}'])
    events = await collect(serve(), "go", parameters=Parameters(response_format=wanted))
    assert json.loads(text_of(events)) == {"city": "Rome"}
    body = upstream.requests[0].body
    asked = body["response_format"] if "response_format" in body else body["text"]["format"]
    assert asked["type"] == kind
    assert kind == "json_object" or json.dumps(schema) in json.dumps(asked)


async def test_a_structured_output_is_yielded_as_json(collect: Collect, serve: Serve, upstream: Upstream) -> None:
    class City(BaseModel):
        name: str

    upstream.script(['{"name": "Rome"}'])
    assert json.loads(text_of(await collect(serve(output_type=City), "go"))) == {"name": "Rome"}


async def test_a_tools_result_that_is_the_output_is_yielded(collect: Collect, serve: Serve, upstream: Upstream) -> None:
    upstream.script([Reply(calls=(("add", {"a": 1, "b": 2}),))])
    events = await collect(serve(tools=[add], tool_use_behavior="stop_on_first_tool"), "go")
    assert text_of(events) == "3"
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("required", "required"), ({"type": "function", "function": {"name": "weather"}}, "weather")],
)
async def test_a_tool_choice_reaches_the_model(
    collect: Collect, serve: Serve, upstream: Upstream, choice: Any, expected: str
) -> None:
    await collect(serve(), "go", parameters=Parameters(tools=(WEATHER,), tool_choice=choice))
    assert expected in json.dumps(upstream.requests[0].body["tool_choice"])


async def test_allowed_tools_narrow_the_agents_tools(collect: Collect, serve: Serve, upstream: Upstream) -> None:
    other = function_tool(lambda: "x", name_override="other", description_override="")
    await collect(serve(tools=[add, other]), "go", parameters=Parameters(allowed_tools=("add",)))
    (tool,) = upstream.requests[0].body["tools"]
    assert "add" in json.dumps(tool)


async def test_a_tool_that_raises_is_told_as_an_error_and_the_run_goes_on(
    collect: Collect, serve: Serve, upstream: Upstream
) -> None:
    @function_tool
    def leak() -> str:
        raise RuntimeError("password=hunter2")

    upstream.script([Reply(calls=(("leak", {}), ("unknown", {}))), "sorry"])
    events = await collect(serve(tools=[leak]), "go")
    assert all(event.error and event.result is None for event in only(ToolReturned, events))
    assert len(only(ToolReturned, events)) == 2
    assert text_of(events) == "sorry"
    assert "hunter2" not in repr(events)


async def test_a_tool_that_may_fail_the_run_does(serve: Serve, upstream: Upstream, make_context: MakeContext) -> None:
    @function_tool(failure_error_function=None)
    def leak() -> str:
        raise RuntimeError("password=hunter2")

    upstream.script([Reply(calls=(("leak", {}),))])
    events: list[AgentEvent] = []
    with pytest.raises(Exception, match="leak"):
        async for event in serve(tools=[leak]).run(Turn((Message("user", "go"),)), make_context()):
            events.append(event)
    (returned,) = only(ToolReturned, events)
    assert returned.error and "hunter2" not in returned.error


async def test_an_error_of_the_provider_fails_the_run(collect: Collect, serve: Serve, upstream: Upstream) -> None:
    upstream.script([Reply(status=500)])
    with pytest.raises(Exception, match="500"):
        await collect(serve(), "go")


async def test_a_model_out_of_reach_fails_the_run(collect: Collect) -> None:
    settings = RuntimeSettings({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"})
    runtime = OpenAIAgentsRuntime(Agent(name="a", model="gpt-4o"), "a", settings)
    with pytest.raises(Exception, match=r"[Cc]onnect"):
        await collect(runtime, "go")
    await runtime.close()


async def test_a_missing_key_is_named_at_the_first_run_and_not_before(collect: Collect) -> None:
    runtime = OpenAIAgentsRuntime(Agent(name="a", model="gpt-4o"), "a", RuntimeSettings())
    assert runtime.describe().model == "gpt-4o"
    with pytest.raises(AgentFailed, match="OPENAI_API_KEY"):
        await collect(runtime, "go")


async def test_tools_find_the_runs_context_in_threads_and_tasks(
    collect: Collect, serve: Serve, upstream: Upstream, make_context: MakeContext
) -> None:
    found: list[RunContext | None] = []

    @function_tool
    def sync_tool() -> str:
        found.append(get_context())
        assert threading.current_thread() is not threading.main_thread()
        return "ok"

    @function_tool
    async def async_tool() -> str:
        found.append(get_context())
        return "ok"

    context = make_context()
    upstream.script([Reply(calls=(("sync_tool", {}), ("async_tool", {}))), "done"])
    await collect(serve(tools=[sync_tool, async_tool]), "go", context=context)
    assert found == [context, context]


async def test_cancelling_in_a_model_call_hangs_up(serve: Serve, upstream: Upstream, make_context: MakeContext) -> None:
    upstream.script([Reply("one two", hangs=True)])
    await cancelled_after(TextDelta, serve(), make_context())
    assert await asyncio.to_thread(upstream.left.wait, 10)


async def test_cancelling_in_a_tool_does_not_wait_for_it(
    serve: Serve, upstream: Upstream, make_context: MakeContext
) -> None:
    release = threading.Event()

    @function_tool
    def wait() -> str:
        release.wait(30)
        return ""

    upstream.script([Reply(calls=(("wait", {}),))])
    await asyncio.wait_for(cancelled_after(ToolCalled, serve(tools=[wait]), make_context()), 25)
    release.set()


class TestOpenAIAgents(RuntimeContract):
    secrets = ("the cellar key", "sk-1")
    reported_usage = Usage(11, 7)

    @pytest.fixture(autouse=True)
    def use(self, upstream: Upstream) -> None:
        upstream.otherwise = "{}".format
        self.upstream = upstream

    def served(self, **options: Any) -> Runtime:
        settings = RuntimeSettings({"OPENAI_BASE_URL": self.upstream.url, "OPENAI_API_KEY": "sk-1"})
        return OpenAIAgentsRuntime(Agent(name="a", model="gpt-4o", **options), "a", settings)

    def echo_runtime(self) -> Runtime:
        return self.served(instructions="the cellar key")

    def failing_runtime(self) -> Runtime:
        self.upstream.script([Reply(status=500)] * 2)
        return self.served()

    def slow_runtime(self) -> Runtime:
        slow = function_tool(lambda: threading.Event().wait(0.6), name_override="slow", description_override="")
        self.upstream.script([Reply(calls=(("slow", {}),))])
        return self.served(tools=[slow])

    def tool_runtime(self) -> Runtime:
        self.upstream.script([Reply(calls=(("add", {"a": 1, "b": 2}),))])
        return self.served(tools=[add])

    def steered_runtime(self) -> Runtime:
        return self.tool_runtime()

    def approval_runtime(self) -> Runtime:
        if not self.upstream.requests:
            self.upstream.script([Reply(calls=(("repeat", {"text": "one"}),))])
        return self.served(tools=[repeat])


@function_tool(needs_approval=True)
def repeat(text: str) -> str:
    return text


async def test_what_an_agent_consumes_that_is_asked_as_a_tool_is_reported(
    collect: Collect, serve: Serve, upstream: Upstream
) -> None:
    asked = Agent(name="asked", model="gpt-4o")
    upstream.script([Reply(calls=(("ask", {"input": "x"}),)), Reply("Seven.", usage=(5, 3)), "It is seven."])
    events = await collect(serve(tools=[asked.as_tool("ask", "Asks.")]), "go")
    told = [(one.usage.input_tokens, one.usage.output_tokens) for one in only(UsageReported, events)]
    assert sorted(told) == [(5, 3), (11, 7), (11, 7)]


@pytest.mark.parametrize(("own", "asked"), [(None, 50), (20, 20), (70, 50)])
async def test_a_model_is_asked_for_what_its_run_can_pay_for_and_keeps_its_own_limit(
    collect: Collect, serve: Serve, upstream: Upstream, own: int | None, asked: int
) -> None:
    runtime = serve(model_settings=ModelSettings(max_tokens=own))
    await collect(runtime, "hi", parameters=Parameters(affordable_tokens=50))
    body = upstream.requests[0].body
    assert body.get("max_tokens", body.get("max_output_tokens")) == asked
