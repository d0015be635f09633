"""What only the Agents SDK has of calls that wait: its own setting, agents that are handed to, agents as tools."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from agents import Agent, function_tool

from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import AgentEvent, Paused
from innkeeper.runtimes.openai_agents import OpenAIAgentsRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.tools import tool
from tests.support.approvals import approve, deny, going_on, paused, returned
from tests.support.openai_upstream import Reply, Upstream
from tests.support.plays import text_of

Collect = Callable[..., Awaitable[list[AgentEvent]]]
Serve = Callable[[Agent[Any]], OpenAIAgentsRuntime]


@function_tool(needs_approval=True)
def erase(path: str) -> str:
    return f"erased {path}"


@pytest.fixture
async def serve(upstream: Upstream) -> AsyncIterator[Serve]:
    """`serve(agent)` is a runtime of that agent."""
    made: list[OpenAIAgentsRuntime] = []

    def served(agent: Agent[Any]) -> OpenAIAgentsRuntime:
        settings = RuntimeSettings({"OPENAI_BASE_URL": upstream.url, "OPENAI_API_KEY": "sk-1"})
        made.append(OpenAIAgentsRuntime(agent, "a", settings))
        return made[-1]

    yield served
    for runtime in made:
        await runtime.close()


def handing_over() -> Agent[Any]:
    cleaner = Agent(name="cleaner", model="gpt-4o", tools=[erase])
    return Agent(name="a", model="gpt-4o", handoffs=[cleaner])


async def _handed_over(serve: Serve, upstream: Upstream, collect: Collect) -> Any:
    upstream.script([Reply(calls=(("transfer_to_cleaner", {}),)), Reply(calls=(("erase", {"path": "a"}),)), "done"])
    return paused(await collect(serve(handing_over())))


async def test_a_run_goes_on_with_the_agent_that_it_was_handed_to(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    pause = await _handed_over(serve, upstream, collect)
    rest = await collect(serve(handing_over()), continuation=going_on(pause))
    assert (list(returned(rest).values()), text_of(rest)) == (["erased a"], "done")


async def test_a_call_of_an_agent_that_was_handed_to_is_not_made_with_other_arguments(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    pause = await _handed_over(serve, upstream, collect)
    continuation = going_on(pause, approve(pause.actions[0].id, '{"path": "b"}'))
    rest = await collect(serve(handing_over()), continuation=continuation)
    ((kind, why),) = returned(rest).values()
    assert (kind, text_of(rest)) == ("error", "done")
    assert why.endswith("It was not made.")


async def test_a_mark_holds_above_and_below_the_sdks_decorator_in_every_agent_that_can_be_reached(serve: Serve) -> None:
    @function_tool
    @tool(requires_approval=True)
    def wipe(path: str) -> str:
        return path

    @tool(requires_approval=True)
    @function_tool
    def burn(path: str) -> str:
        return path

    nested = Agent(name="nested", tools=[burn])
    handed = Agent(name="handed", tools=[wipe, nested.as_tool("ask_nested", "Asks.")])
    handed.handoffs.append(agent := Agent[Any](name="a", handoffs=[handed]))
    serve(agent)
    assert wipe.needs_approval is True
    assert burn.needs_approval is True


async def test_a_call_inside_an_agent_that_is_a_tool_waits_and_goes_on(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    def agent() -> Agent[Any]:
        nested = Agent(name="nested", model="gpt-4o", tools=[erase])
        return Agent(name="a", model="gpt-4o", tools=[nested.as_tool("ask_nested", "Asks.")])

    upstream.script([Reply(calls=(("ask_nested", {"input": "x"}),)), Reply(calls=(("erase", {"path": "a"}),))])
    pause = paused(await collect(serve(agent())))
    assert [action.name for action in pause.actions] == ["erase"]
    upstream.script(["erased it", "done"])
    rest = await collect(serve(agent()), continuation=going_on(pause))
    assert "erased it" in returned(rest).values()
    assert text_of(rest) == "done"


async def test_a_run_of_an_agent_that_has_another_name_now_says_so(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    renamed = Agent(name="b", model="gpt-4o", tools=[erase])
    upstream.script([Reply(calls=(("erase", {"path": "a"}),))])
    pause = paused(await collect(serve(Agent(name="a", model="gpt-4o", tools=[erase]))))
    with pytest.raises(AgentFailed, match="put aside by another version of its agent"):
        await collect(serve(renamed), continuation=going_on(pause))


async def test_the_model_is_told_the_reason_or_else_that_the_call_was_denied(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    for message, told in (("Keep it.", "Keep it."), (None, "The call was denied.")):
        upstream.script([Reply(calls=(("erase", {"path": "a"}),)), "done"])
        agent = Agent(name="a", model="gpt-4o", tools=[erase])
        pause = paused(await collect(serve(agent)))
        rest = await collect(serve(agent), continuation=going_on(pause, deny(pause.actions[0].id, message)))
        assert list(returned(rest).values()) == [("error", told)]


async def test_what_is_put_aside_by_a_later_version_is_refused(
    serve: Serve, upstream: Upstream, collect: Collect
) -> None:
    upstream.script([Reply(calls=(("erase", {"path": "a"}),))])
    agent = Agent(name="a", model="gpt-4o", tools=[erase])
    pause = paused(await collect(serve(agent)))
    later = Paused(pause.actions, json.dumps({**json.loads(pause.state), "version": 99}))
    with pytest.raises(AgentFailed, match="put aside by another version"):
        await collect(serve(agent), continuation=going_on(later))
