"""Tools of a run's session, offered to agents with a model beside their own; for each framework."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import agents
import pydantic_ai
import pytest
from pydantic import BaseModel

from innkeeper.core.context import RunContext, SessionTool, get_tool_call
from innkeeper.core.errors import CommandFailed, Invalid
from innkeeper.core.events import ToolCalled, ToolReturned
from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.runs import Parameters, Resumption
from innkeeper.runtimes.declared import Agent, DeclaredRuntime
from innkeeper.runtimes.isolated import IsolatedRuntime
from innkeeper.runtimes.openai_agents import OpenAIAgentsRuntime
from innkeeper.runtimes.pydantic_ai import PydanticAIRuntime
from innkeeper.runtimes.scripted import scripted_model
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.tools import tool
from innkeeper.services.assembling import UNKNOWN
from innkeeper.testing.lines import RecordedRun
from innkeeper.testing.runtimes import new_context, play
from tests.support.openai_upstream import Reply, Upstream
from tests.support.plays import only, text_of
from tests.support.steered import KINDS, steered

Serve = Callable[..., Any]
Json = dict[str, Any]

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "City name"}},
    "required": ["city"],
    "additionalProperties": False,
}


async def weather(arguments: Mapping[str, object]) -> object:
    return {"sunny in": arguments["city"], "call": getattr(get_tool_call(), "key", None)}


def offered(name: str = "weather", call: Any = weather) -> SessionTool:
    return SessionTool(name, "Get the weather.", SCHEMA, call)


def raising(error: Exception) -> SessionTool:
    async def call(arguments: Mapping[str, object]) -> object:
        raise error

    return offered(call=call)


@pytest.fixture(params=KINDS)
async def serve(upstream: Upstream, request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """`serve([tool])` is a runtime of each kind in turn, over a real provider."""
    made: list[Any] = []

    def served(tools: Any = (), max_steps: int = 10) -> Any:
        made.append(steered(request.param, upstream, tools, max_steps))
        return made[-1]

    yield served
    for runtime in made:
        await runtime.close()


@pytest.fixture
def context() -> RunContext:
    context = new_context()
    context.run_id = "run_1"
    context.session_tools = [offered()]
    return context


def shown(upstream: Upstream, at: int = 0) -> Json:
    """The tools that a request offers to the model, by name."""
    told = [one.get("function", one) for one in upstream.requests[at].body.get("tools") or []]
    return {one["name"]: one for one in told}


def ask(upstream: Upstream, name: str = "weather", **arguments: Any) -> None:
    upstream.script([Reply(calls=((name, arguments),)), "Done."])


async def test_a_model_is_offered_and_calls_a_tool_of_the_session(
    serve: Serve, upstream: Upstream, context: RunContext
) -> None:
    ask(upstream, city="Rome")
    events = await play(serve(), "hi", context=context)
    weather = shown(upstream)["weather"]
    assert (weather["description"], weather["parameters"]) == ("Get the weather.", SCHEMA)
    (called,) = only(ToolCalled, events)
    (returned,) = only(ToolReturned, events)
    assert (called.tool_name, called.is_client_side) == ("weather", False)
    assert returned.result == {"sunny in": "Rome", "call": f"run_1:{called.tool_call_id}"}
    assert (returned.tool_call_id, returned.error) == (called.tool_call_id, None)
    assert '"sunny in":"Rome"' in upstream_result(upstream)
    assert text_of(events) == "Done."


def upstream_result(upstream: Upstream) -> str:
    """What the model was told of its call."""
    for one in upstream.requests[-1].body.get("messages") or upstream.requests[-1].body["input"]:
        if one.get("role") == "tool" or one.get("type") == "function_call_output":
            return str(one.get("content") or one["output"])
    raise AssertionError(upstream.requests[-1].body)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (CommandFailed("The code raised ValueError: no such city"), "The code raised ValueError: no such city"),
        (Invalid("arguments.city: is required."), "arguments.city: is required."),
        (RuntimeError("the secret is open-sesame"), "The tool failed: RuntimeError."),
    ],
)
async def test_what_a_tool_raises_is_told_to_the_model_and_the_run_goes_on(
    serve: Serve, upstream: Upstream, context: RunContext, error: Exception, told: str
) -> None:
    context.session_tools = [raising(error)]
    ask(upstream, city="Rome")
    events = await play(serve(), "hi", context=context)
    assert [one.error for one in only(ToolReturned, events)] == [told]
    assert told in upstream_result(upstream)
    assert text_of(events) == "Done."


async def test_an_agents_own_tool_wins_and_the_log_says_so(
    serve: Serve, upstream: Upstream, context: RunContext, caplog: pytest.LogCaptureFixture
) -> None:
    def weather(town: str) -> str:
        """My own."""
        return f"own {town}"

    context.session_tools = [offered(), offered("other")]
    ask(upstream, town="Rome")
    with caplog.at_level(logging.WARNING):
        events = await play(serve([weather]), "hi", context=context)
    assert sorted(shown(upstream)) == ["other", "weather"]
    assert shown(upstream)["weather"]["description"] == "My own."
    assert [one.result for one in only(ToolReturned, events)] == ["own Rome"]
    warnings = [one.getMessage() for one in caplog.records if "weather" in one.getMessage()]
    assert len(warnings) == 1 and "of its own" in warnings[0]


async def test_a_clients_tool_of_that_name_stays_the_clients(
    serve: Serve, upstream: Upstream, context: RunContext
) -> None:
    clients = {"type": "function", "function": {"name": "weather", "description": "The client's.", "parameters": {}}}
    ask(upstream, city="Rome")
    events = await play(serve(), "hi", context=context, parameters=Parameters(tools=(clients,)))
    assert shown(upstream)["weather"]["description"] == "The client's."
    assert [one.is_client_side for one in only(ToolCalled, events)] == [True]


async def test_allowed_tools_narrow_those_of_the_session(serve: Serve, upstream: Upstream, context: RunContext) -> None:
    context.session_tools = [offered(), offered("other")]
    await play(serve(), "hi", context=context, parameters=Parameters(allowed_tools=("other",)))
    assert list(shown(upstream)) == ["other"]
    await play(serve(), "hi", context=context, parameters=Parameters(allowed_tools=()))
    assert shown(upstream, 1) == {}


async def test_a_tool_is_called_once_its_call_is_on_disk(serve: Serve, upstream: Upstream, context: RunContext) -> None:
    run = RecordedRun(context)
    saved: list[Any] = []

    async def call(arguments: Mapping[str, object]) -> object:
        saved.extend(run.log[: run.saved_events])
        return "done"

    context.session_tools = [offered(call=call)]
    ask(upstream, city="Rome")
    await run.play(serve(), "hi")
    assert only(ToolCalled, saved)


async def test_a_call_that_was_cut_off_is_not_made_again(serve: Serve, upstream: Upstream, context: RunContext) -> None:
    called: list[object] = []

    @tool(idempotent=True)
    async def call(arguments: Mapping[str, object]) -> object:
        called.append(arguments)
        return "done"

    context.session_tools = [offered(call=call)]
    use = ToolUse("c1", "weather", '{"city": "Rome"}')
    said: list[str | Message] = ["go", Message("assistant", None, (use,), is_internal=True)]
    upstream.script(["Done."])
    events = await play(serve(), *said, context=context, resumption=Resumption(2, 1, (use,)))
    assert called == []
    assert [one.error for one in only(ToolReturned, events)] == [UNKNOWN]


async def test_runs_do_not_see_the_tools_of_other_sessions(
    serve: Serve, upstream: Upstream, context: RunContext
) -> None:
    runtime = serve()
    await play(runtime, "hi", context=context)
    await play(runtime, "hi", context=new_context())
    assert [list(shown(upstream, at)) for at in (0, 1)] == [["weather"], []]


async def test_the_scripted_model_calls_tools_of_the_session(context: RunContext) -> None:
    runtime = DeclaredRuntime(Agent("a", "test"), "a", RuntimeSettings())
    events = await play(runtime, 'call weather {"city": "Rome"}', context=context)
    assert [one.tool_name for one in only(ToolCalled, events)] == ["weather"]
    assert text_of(events).startswith('weather returned {"sunny in":"Rome"')


async def test_an_isolated_agent_calls_them_on_the_servers_loop(context: RunContext) -> None:
    here: list[bool] = []
    loop, thread = asyncio.get_running_loop(), threading.get_ident()

    async def call(arguments: Mapping[str, object]) -> object:
        here.append(asyncio.get_running_loop() is loop and threading.get_ident() == thread)
        return "done"

    context.session_tools = [offered(call=call), SessionTool("bad", "", SCHEMA, raising(CommandFailed("no")).call)]
    runtime = IsolatedRuntime(DeclaredRuntime(Agent("a", "test"), "a", RuntimeSettings()), "a")
    events = await play(runtime, 'call weather {"city": "a"}\ncall bad {"city": "b"}', context=context)
    assert here == [True]
    told = {one.tool_name: (one.result, one.error) for one in only(ToolReturned, events)}
    assert told == {"weather": ("done", None), "bad": (None, "no")}


@pytest.mark.parametrize("arguments", ["[1]", '"text"', "{", "null"])
async def test_arguments_that_are_no_object_do_not_end_the_run(context: RunContext, arguments: str) -> None:
    runtime = DeclaredRuntime(Agent("a", "test"), "a", RuntimeSettings())
    events = await play(runtime, f"call weather {arguments}", context=context)
    (returned,) = only(ToolReturned, events)
    assert returned.error


async def test_a_name_that_an_output_goes_by_is_not_offered(
    context: RunContext, caplog: pytest.LogCaptureFixture
) -> None:
    class City(BaseModel):
        name: str

    context.session_tools = [offered("final_result"), offered()]
    agent = pydantic_ai.Agent(scripted_model(), output_type=City)
    events = await play(PydanticAIRuntime(agent, "a", RuntimeSettings()), "hi", context=context)
    assert "name" in text_of(events)
    assert "final_result" in caplog.text


async def test_a_handoff_of_that_name_wins(
    upstream: Upstream, context: RunContext, caplog: pytest.LogCaptureFixture
) -> None:
    other = agents.Agent(name="other", model="gpt-4o")
    agent = agents.Agent(name="a", model="gpt-4o", handoffs=[other])
    settings = RuntimeSettings({"OPENAI_BASE_URL": upstream.url, "OPENAI_API_KEY": "sk-1"})
    context.session_tools = [offered("transfer_to_other")]
    ask(upstream, "transfer_to_other")
    runtime = OpenAIAgentsRuntime(agent, "a", settings)
    events = await play(runtime, "hi", context=context)
    await runtime.close()
    assert [one.result for one in only(ToolReturned, events)] == [{"assistant": "other"}]
    assert "transfer_to_other" in caplog.text
