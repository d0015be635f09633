"""Declared agents: an agent in one call."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from innkeeper.core.context import RunContext, get_context
from innkeeper.core.errors import AgentFailed, Invalid
from innkeeper.core.events import AgentEvent, StepChanged, TextDelta, ToolReturned
from innkeeper.core.messages import Message
from innkeeper.core.runs import Parameters, Turn
from innkeeper.core.usage import Usage
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.declared import Agent, DeclaredRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.tools import tool
from innkeeper.testing import RuntimeContract
from tests.support.openai_upstream import Reply, Upstream
from tests.support.plays import cancelled_after, text_of
from tests.support.sizes import within

Collect = Callable[..., Awaitable[list[AgentEvent]]]
MakeContext = Callable[..., RunContext]


def served(agent: Agent, **environment: str) -> DeclaredRuntime:
    return DeclaredRuntime(agent, agent.name, RuntimeSettings(environment))


def test_declaring_and_describing_imports_no_framework() -> None:
    program = (
        "import sys; from innkeeper.runtimes.declared import Agent, DeclaredRuntime;"
        "from innkeeper.runtimes.settings import RuntimeSettings;"
        "DeclaredRuntime(Agent('a', 'test'), 'a', RuntimeSettings()).describe();"
        "print([name for name in ('pydantic_ai', 'openai', 'agents') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"


def test_the_first_run_imports_the_framework_beside_the_event_loop() -> None:
    program = """
import asyncio, time
from innkeeper.runtimes.declared import Agent, DeclaredRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.testing.runtimes import play

async def longest_pause():
    run = asyncio.ensure_future(play(DeclaredRuntime(Agent("a", "test"), "a", RuntimeSettings()), "hi"))
    longest, last = 0.0, time.monotonic()
    while not run.done():
        await asyncio.wait([run], timeout=0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return longest

print(asyncio.run(longest_pause()))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert float(ran.stdout) < within(0.15, 1.0)


async def test_instructions_tools_and_settings_reach_the_model(collect: Collect, upstream: Upstream) -> None:
    def weather(city: str) -> str:
        """Tells the weather."""
        return f"sunny in {city}"

    agent = Agent(
        name="assistant",
        model="openai:gpt-4o",
        instructions="Be brief.",
        tools=[weather],
        temperature=0.2,
        max_tokens=50,
    )
    upstream.script([Reply("Let me see. ", calls=(("weather", {"city": "Rome"}),)), "Sunny."])
    runtime = served(agent, OPENAI_BASE_URL=upstream.url, OPENAI_API_KEY="sk-1")
    events = await collect(runtime, "how is it?")
    await runtime.close()
    assert text_of(events) == "Let me see. Sunny."
    first, second = (request.body for request in upstream.requests)
    assert first["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "how is it?"},
    ]
    assert (first["temperature"], first["max_completion_tokens"]) == (0.2, 50)
    assert first["tools"][0]["function"]["description"] == "Tells the weather."
    assert second["messages"][-1]["content"] == "sunny in Rome"


async def test_a_client_overrides_the_agents_temperature(collect: Collect, upstream: Upstream) -> None:
    runtime = served(Agent("a", "openai:gpt-4o", temperature=0.2), OPENAI_BASE_URL=upstream.url)
    await collect(runtime, "hi", parameters=Parameters(temperature=0.0))
    await runtime.close()
    assert upstream.requests[0].body["temperature"] == 0.0


async def test_max_steps_bounds_the_model_calls_and_says_so(make_context: MakeContext, upstream: Upstream) -> None:
    def again() -> str:
        return "again"

    upstream.script([Reply(calls=(("again", {}),))] * 9)
    runtime = served(Agent("a", "openai:gpt-4o", tools=[again], max_steps=3), OPENAI_BASE_URL=upstream.url)
    events = []
    with pytest.raises(AgentFailed, match="3 steps"):
        async for event in runtime.run(Turn((Message("user", "go"),)), make_context()):
            events.append(event)
    await runtime.close()
    assert len(upstream.requests) == 3
    steps = [event for event in events if isinstance(event, StepChanged)]
    assert [step.status for step in steps] == ["started", "completed"] * 3


async def test_a_tool_that_raises_is_told_to_the_model_and_the_run_goes_on(collect: Collect) -> None:
    def refuse() -> str:
        raise ValueError("no such city")

    async def leak() -> str:
        raise RuntimeError("password=hunter2")

    events = await collect(served(Agent("a", "test", tools=[refuse, leak])), "call refuse {}\ncall leak {}")
    errors = {event.tool_name: event.error for event in events if isinstance(event, ToolReturned)}
    assert errors == {"refuse": "no such city", "leak": "The tool failed: RuntimeError."}
    assert "no such city" in text_of(events)
    assert "hunter2" not in repr(events)


async def test_tools_find_the_runs_context(collect: Collect, make_context: MakeContext) -> None:
    found: list[RunContext | None] = []

    def sync_tool() -> str:
        found.append(get_context())
        assert threading.current_thread() is not threading.main_thread()
        return "ok"

    async def async_tool() -> str:
        found.append(get_context())
        return "ok"

    context = make_context()
    agent = Agent("a", "test", tools=[sync_tool, async_tool])
    await collect(served(agent), "call sync_tool {}\ncall async_tool {}", context=context)
    assert found == [context, context]


async def test_the_scripted_model_repeats_what_was_said(collect: Collect) -> None:
    assert text_of(await collect(served(Agent("a", "test")), "good morning")) == "You said: good morning"


async def test_a_missing_key_is_named_at_the_first_run_and_not_before(collect: Collect) -> None:
    runtime = served(Agent("a", "openai:gpt-4o"))
    assert runtime.describe().model == "openai:gpt-4o"
    with pytest.raises(AgentFailed, match="OPENAI_API_KEY"):
        await collect(runtime, "hi")


async def test_a_model_out_of_reach_fails_the_run(collect: Collect) -> None:
    runtime = served(Agent("a", "openai:gpt-4o"), OPENAI_BASE_URL="http://127.0.0.1:1/v1")
    with pytest.raises(Exception, match=r"[Cc]onnect"):
        await collect(runtime, "hi")
    await runtime.close()


async def test_cancelling_in_a_model_call_hangs_up(make_context: MakeContext, upstream: Upstream) -> None:
    upstream.script([Reply("one two", hangs=True)])
    runtime = served(Agent("a", "openai:gpt-4o"), OPENAI_BASE_URL=upstream.url)
    await cancelled_after(TextDelta, runtime, make_context())
    assert await asyncio.to_thread(upstream.left.wait, 10)
    await runtime.close()


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"name": "a"}, "model"),
        ({"name": "a", "model": " "}, "model"),
        ({"name": "a/b", "model": "test"}, "name"),
        ({"name": "a", "model": "test", "max_steps": 0}, "max_steps"),
        ({"name": "a", "model": "test", "tools": ["add"]}, "tools"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as refused:
        Agent(**arguments)
    assert refused.value.param == param


def test_a_description_has_what_clients_may_know() -> None:
    agent = Agent("a", "openai:gpt-4o", instructions="secret", tools=[add], max_steps=4, description="Adds.")
    described = served(agent).describe()
    assert (described.name, described.model, described.provider) == ("a", "openai:gpt-4o", "openai")
    assert (described.tools, described.max_steps, described.description) == (("add",), 4, "Adds.")
    assert described.has_model and described.accepts_client_tools
    assert "secret" not in repr(described)


class TestDeclared(RuntimeContract):
    secrets = ("the cellar key",)
    reported_usage = Usage(11, 7)

    @pytest.fixture(autouse=True)
    def use(self, upstream: Upstream) -> None:
        upstream.otherwise = "{}".format
        self.upstream = upstream

    def served(self, **options: Any) -> Runtime:
        return served(Agent("a", "openai:gpt-4o", **options), OPENAI_BASE_URL=self.upstream.url)

    def echo_runtime(self) -> Runtime:
        return self.served(instructions="the cellar key")

    def failing_runtime(self) -> Runtime:
        self.upstream.script([Reply(status=500)] * 2)
        return self.served()

    def slow_runtime(self) -> Runtime:
        self.upstream.script([Reply(calls=(("wait", {}),))])
        return self.served(tools=[wait])

    def tool_runtime(self) -> Runtime:
        self.upstream.script([Reply(calls=(("add", {"a": 1, "b": 2}),))])
        return self.served(tools=[add])

    def steered_runtime(self) -> Runtime:
        return self.tool_runtime()

    def approval_runtime(self) -> Runtime:
        if not self.upstream.requests:
            self.upstream.script([Reply(calls=(("repeat", {"text": "one"}),))])
        return self.served(tools=[tool(requires_approval=True)(repeat)])


def repeat(text: str) -> str:
    return text


def wait() -> None:
    threading.Event().wait(0.6)


def add(a: int, b: int) -> int:
    return a + b
