"""Tools that require approval, in every framework: what waits, what is told, and how a run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from innkeeper.core.context import SessionTool, get_tool_call
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import AgentEvent, FinishNoted, StepChanged, ToolCalled, UsageReported
from innkeeper.core.messages import Message, ToolUse
from innkeeper.core.runs import Parameters, Resumption
from innkeeper.runtimes.declared import Agent, DeclaredRuntime
from innkeeper.runtimes.isolated import IsolatedRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.tools import tool
from innkeeper.services.assembling import UNKNOWN
from innkeeper.testing.lines import RecordedRun
from innkeeper.testing.runtimes import new_context
from tests.support.approvals import approve, delete, deny, going_on, look, paused, pay, returned
from tests.support.openai_upstream import Reply, Upstream
from tests.support.plays import only, text_of
from tests.support.steered import KINDS, Kind, heard, steered

Serve = Callable[..., Any]
Collect = Callable[..., Awaitable[list[AgentEvent]]]

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(params=KINDS)
async def serve(upstream: Upstream, request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """`serve(tools, max_steps)` is a fresh runtime of each kind in turn."""
    made: list[Any] = []

    def served(tools: Any = (delete, pay, look), max_steps: int = 10) -> Any:
        made.append(steered(request.param, upstream, tools, max_steps))
        return made[-1]

    yield served
    for runtime in made:
        await runtime.close()


async def test_what_requires_no_approval_runs_at_once_beside_what_waits(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    upstream.script([Reply(calls=(("look", {"n": 1}), ("delete", {"path": "a"}), ("delete", {"path": "b"}))), "done"])
    first = await collect(serve())
    looked, *waiting = [event.tool_call_id for event in only(ToolCalled, first)]
    assert returned(first) == {looked: "saw 1"}
    pause = paused(first)
    assert sorted(action.id for action in pause.actions) == sorted(waiting)
    assert {(action.kind, action.name) for action in pause.actions} == {("approval", "delete")}
    assert [event.status for event in only(StepChanged, first)] == ["started"]

    allowed, denied = pause.actions
    continuation = going_on(pause, approve(allowed.id), deny(denied.id, "Keep it."))
    rest = await collect(serve(), continuation=continuation)
    path = json.loads(allowed.arguments)["path"]
    assert returned(rest) == {allowed.id: f"deleted {path}", denied.id: ("error", "Keep it.")}
    steps = [(event.step_number, event.status) for event in only(StepChanged, rest)]
    assert steps == [(1, "completed"), (2, "started"), (2, "completed")]
    assert text_of(rest) == "done"
    assert (len(only(UsageReported, first)), len(only(UsageReported, rest))) == (1, 1)
    told = heard(upstream.requests[-1])
    assert {"result saw 1", f"result deleted {path}", "result Keep it."} <= set(told)


@pytest.mark.parametrize("kind", ["declared", "openai_agents"])
async def test_a_run_goes_on_in_a_process_that_knows_nothing_but_the_text(
    kind: Kind, upstream: Upstream, collect: Collect
) -> None:
    upstream.script([Reply(calls=(("delete", {"path": "a"}),))])
    runtime = steered(kind, upstream, [delete])
    pause = paused(await collect(runtime))
    await runtime.close()
    program = (
        "import asyncio, json, sys\n"
        "from types import SimpleNamespace\n"
        "from innkeeper.core.actions import Answer, Continuation\n"
        "from innkeeper.testing.runtimes import play\n"
        "from tests.support.approvals import delete\n"
        "from tests.support.steered import steered\n"
        "kind, url, action = sys.argv[1:]\n"
        "runtime = steered(kind, SimpleNamespace(url=url), [delete])\n"
        "continuation = Continuation(sys.stdin.read(), (Answer(action, 'approve'),))\n"
        "print(asyncio.run(play(runtime, 'hi', continuation=continuation)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, kind, upstream.url, pause.actions[0].id],
        input=pause.state,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "result='deleted a'" in ran.stdout
    assert "result deleted a" in heard(upstream.requests[-1])


async def test_a_rule_decides_which_calls_wait(serve: Serve, upstream: Upstream, collect: Collect) -> None:
    upstream.script([Reply(calls=(("pay", {"euros": 5}), ("pay", {"euros": 500}))), "done"])
    first = await collect(serve())
    (action,) = paused(first).actions
    assert json.loads(action.arguments) == {"euros": 500}
    assert list(returned(first).values()) == ["paid 5"]
    rest = await collect(serve(), continuation=going_on(paused(first)))
    assert returned(rest) == {action.id: "paid 500"}


async def test_a_rule_that_fails_has_allowed_nothing(
    serve: Serve, upstream: Upstream, collect: Collect, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(arguments: Mapping[str, Any]) -> bool:
        raise LookupError("euros")

    @tool(requires_approval=broken)
    def pay(euros: int) -> str:
        raise AssertionError("nobody has approved it")

    upstream.script([Reply(calls=(("pay", {"euros": 5}),))])
    assert [action.name for action in paused(await collect(serve([pay]))).actions] == ["pay"]
    assert "requires approval could not be told" in caplog.text


async def test_a_run_may_pause_again_and_its_steps_are_counted_on(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    upstream.script([Reply(calls=(("delete", {"path": one}),)) for one in ("a", "b")])
    first = paused(await collect(serve(max_steps=2)))
    second = await collect(serve(max_steps=2), continuation=going_on(first))
    assert list(returned(second).values()) == ["deleted a"]
    assert [event.step_number for event in only(StepChanged, second)] == [1, 2]
    assert {action.id for action in paused(second).actions}.isdisjoint(action.id for action in first.actions)
    with pytest.raises(AgentFailed, match="all of its 2 steps"):
        await collect(serve(max_steps=2), continuation=going_on(paused(second)))


@pytest.mark.parametrize("wrong", ['{"file": "b"}', '{"path": 3}', "[]", '"b"', "nonsense", "null"])
async def test_arguments_that_the_tool_does_not_take_are_told_to_the_model_and_nothing_is_called(
    serve: Serve, upstream: Upstream, collect: Collect, wrong: str
) -> None:
    upstream.script([Reply(calls=(("delete", {"path": "a"}),)), "I see."])
    pause = paused(await collect(serve()))
    rest = await collect(serve(), continuation=going_on(pause, approve(pause.actions[0].id, wrong)))
    ((kind, why),) = returned(rest).values()
    assert kind == "error" and why
    assert text_of(rest) == "I see."


async def test_a_call_of_the_clients_beside_one_that_waits_is_told_when_that_is_done(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    upstream.script([Reply(calls=(("weather", {}), ("delete", {"path": "a"})))])
    parameters = Parameters(tools=(WEATHER,))
    first = await collect(serve(), parameters=parameters)
    assert [event.tool_name for event in only(ToolCalled, first)] == ["delete"]
    assert [action.name for action in paused(first).actions] == ["delete"]
    rest = await collect(serve(), parameters=parameters, continuation=going_on(paused(first)))
    assert list(returned(rest).values()) == ["deleted a"]
    (called,) = only(ToolCalled, rest)
    assert (called.tool_name, called.is_client_side) == ("weather", True)
    assert rest[-1] == FinishNoted("tool_calls")
    assert len(upstream.requests) == 1, "no model is told what its client has yet to answer"


async def test_a_tool_that_was_demanded_is_not_demanded_again(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    upstream.script([Reply(calls=(("delete", {"path": "a"}),)), "done"])
    parameters = Parameters(tool_choice="required")
    pause = paused(await collect(serve(), parameters=parameters))
    rest = await collect(serve(), parameters=parameters, continuation=going_on(pause))
    demanded, free = (request.body.get("tool_choice") for request in upstream.requests)
    assert demanded == "required" and free in (None, "auto")
    assert text_of(rest) == "done"


async def test_what_a_request_allows_and_what_its_session_has_hold_after_a_pause(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    async def greet(arguments: Mapping[str, Any]) -> object:
        return f"hello {arguments['name']}"

    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    upstream.script([Reply(calls=(("delete", {"path": "a"}),)), Reply(calls=(("greet", {"name": "Ada"}),)), "done"])
    parameters = Parameters(allowed_tools=("delete", "greet"))

    def with_greet() -> Any:
        context = new_context()
        context.session_tools = (SessionTool("greet", "Greets.", schema, greet),)
        return context

    pause = paused(await collect(serve(), parameters=parameters, context=with_greet()))
    rest = await collect(serve(), parameters=parameters, context=with_greet(), continuation=going_on(pause))
    assert "hello Ada" in returned(rest).values()
    offered = [tool.get("name") or tool["function"]["name"] for tool in upstream.requests[-1].body["tools"]]
    assert sorted(offered) == ["delete", "greet"]


async def test_an_approved_call_knows_which_it_is(serve: Serve, upstream: Upstream, collect: Collect) -> None:
    seen: list[str] = []

    @tool(requires_approval=True)
    def delete(path: str) -> str:
        call = get_tool_call()
        seen.append(call.id if call else "")
        return path

    upstream.script([Reply(calls=(("delete", {"path": "a"}),)), "done"])
    pause = paused(await collect(serve([delete])))
    assert seen == []
    await collect(serve([delete]), continuation=going_on(pause))
    assert seen == [pause.actions[0].id]


async def test_what_was_injected_before_a_pause_is_still_known_after_it(serve: Serve, upstream: Upstream) -> None:
    upstream.script([Reply(calls=(("delete", {"path": "a"}),)), "done"])
    run = RecordedRun(new_context())
    run.inject("Be quick.")
    pause = paused(await run.play(serve(), "hi"))
    run = RecordedRun(new_context())
    run.inject("Be quicker.")
    await run.play(serve(), "hi", continuation=going_on(pause))
    told = heard(upstream.requests[-1])
    assert told == ["user hi", "user Be quick.", "call delete", "result deleted a", "user Be quicker."]


async def test_an_approved_call_that_a_crash_cut_off_is_told_as_unknown_and_never_repeated(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    made: list[str] = []

    @tool(idempotent=True, requires_approval=True)
    def wipe(path: str) -> str:
        made.append(path)
        return path

    upstream.script([Reply(calls=(("wipe", {"path": "a"}),)), "done"])
    pause = paused(await collect(serve([wipe])))
    use = ToolUse(pause.actions[0].id, "wipe", '{"path": "a"}')
    messages = (Message("user", "hi"), Message("assistant", None, (use,)))
    resumption = Resumption(2, 1, (use,))
    for continuation in (None, going_on(pause)):
        rest = await collect(serve([wipe]), *messages, resumption=resumption, continuation=continuation)
        assert returned(rest) == {use.id: ("error", UNKNOWN)}
    assert made == []


async def test_a_run_on_an_event_loop_of_its_own_pauses_and_goes_on_as_any_other(collect: Collect) -> None:
    def isolated() -> IsolatedRuntime:
        agent = Agent("a", "test", tools=[delete])
        return IsolatedRuntime(DeclaredRuntime(agent, "a", RuntimeSettings()), "a")

    said = 'call delete {"path": "a"}'
    pause = paused(await collect(isolated(), said))
    rest = await collect(isolated(), said, continuation=going_on(pause))
    assert (list(returned(rest).values()), text_of(rest)) == (["deleted a"], "delete returned deleted a.")


async def test_what_another_framework_has_put_aside_is_refused(upstream: Upstream, collect: Collect) -> None:
    one, other = (steered(kind, upstream, [delete]) for kind in ("pydantic_ai", "openai_agents"))
    for runtime, stranger in ((one, other), (other, one)):
        upstream.script([Reply(calls=(("delete", {"path": "a"}),))])
        pause = paused(await collect(runtime))
        with pytest.raises(AgentFailed, match="put aside by another version"):
            await collect(stranger, continuation=going_on(pause))
    await one.close()
    await other.close()
