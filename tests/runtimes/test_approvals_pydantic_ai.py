"""What only Pydantic AI has of calls that wait: tools that ask when they run, results from outside, typed outputs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, Tool
from pydantic_ai import RunContext as AgentContext
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall

import innkeeper
from innkeeper.core.actions import Answer
from innkeeper.core.errors import AgentFailed, Invalid
from innkeeper.core.events import AgentEvent
from innkeeper.runtimes.declared import DeclaredRuntime
from innkeeper.runtimes.pydantic_ai import PydanticAIRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.tools import tool
from tests.support.approvals import approve, deny, going_on, paused, returned
from tests.support.plays import text_of
from tests.support.pydantic_agents import agent_of, scripted, served

Collect = Callable[..., Awaitable[list[AgentEvent]]]


def erase(path: str) -> str:
    return f"erased {path}"


async def test_a_tool_that_requires_approval_by_pydantic_ais_own_setting_waits(collect: Collect) -> None:
    def agent() -> Agent[Any, Any]:
        return scripted(tools=[Tool(erase, requires_approval=True)])

    said = 'call erase {"path": "a"}'
    pause = paused(await collect(served(agent()), said))
    (action,) = pause.actions
    rest = await collect(served(agent()), said, continuation=going_on(pause, approve(action.id, '{"path": "b"}')))
    assert returned(rest) == {action.id: "erased b"}
    assert text_of(rest) == "erase returned erased b."


async def test_a_tool_may_ask_for_approval_when_it_runs_and_its_metadata_comes_back(collect: Collect) -> None:
    def pay(context: AgentContext[None], euros: int) -> str:
        if euros > 100 and not context.tool_call_approved:
            raise ApprovalRequired({"limit": 100})
        return f"paid {euros} over {(context.tool_call_metadata or {}).get('limit')}"

    said = 'call pay {"euros": 5}\ncall pay {"euros": 500}'
    first = await collect(served(scripted(tools=[pay])), said)
    assert list(returned(first).values()) == ["paid 5 over None"]
    rest = await collect(served(scripted(tools=[pay])), said, continuation=going_on(paused(first)))
    assert list(returned(rest).values()) == ["paid 500 over 100"]


async def test_a_call_whose_result_comes_from_outside_is_asked_for_as_input(collect: Collect) -> None:
    def ask(question: str) -> str:
        raise CallDeferred

    said = 'call ask {"question": "Where to?"}'
    pause = paused(await collect(served(scripted(tools=[ask])), said))
    (action,) = pause.actions
    assert (action.kind, action.name, json.loads(action.arguments)) == ("input", "ask", {"question": "Where to?"})
    answer = Answer(action.id, "answer", value='{"city": "Rome"}')
    rest = await collect(served(scripted(tools=[ask])), said, continuation=going_on(pause, answer))
    assert returned(rest) == {action.id: {"city": "Rome"}}
    rest = await collect(served(scripted(tools=[ask])), said, continuation=going_on(pause, deny(action.id, "Nowhere.")))
    assert returned(rest) == {action.id: ("error", "Nowhere.")}


async def test_an_agent_of_typed_output_pauses_though_its_output_is_something_else(collect: Collect) -> None:
    class Report(BaseModel):
        erased: int

    agent = Agent("test", output_type=Report, tools=[Tool(erase, requires_approval=True)])
    pause = paused(await collect(served(agent)))
    rest = await collect(served(agent), continuation=going_on(pause))
    assert list(returned(rest).values()) == ["erased a"]
    assert set(json.loads(text_of(rest))) == {"erased"}


async def test_a_model_that_uses_the_ids_of_its_calls_again_pauses_with_other_actions(collect: Collect) -> None:
    async def script(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        turns = sum(isinstance(message, ModelResponse) for message in messages)
        if turns == 2:
            yield "done"
        else:
            yield {0: DeltaToolCall("erase", json.dumps({"path": "ab"[turns]}), tool_call_id="c1")}

    def runtime() -> PydanticAIRuntime:
        return served(agent_of(script, tools=[Tool(erase, requires_approval=True)]))

    first = paused(await collect(runtime()))
    second = paused(await collect(runtime(), continuation=going_on(first)))
    assert [action.id for action in (*first.actions, *second.actions)] == ["c1", "c1#2"]
    rest = await collect(runtime(), continuation=going_on(second))
    assert (returned(rest), text_of(rest)) == ({"c1": "erased b"}, "done")


async def test_all_that_a_model_has_said_survives_a_pause(collect: Collect) -> None:
    heard: list[list[ModelMessage]] = []

    class Odd:
        def __repr__(self) -> str:
            return "an odd thing"

    def look() -> dict[str, Any]:
        return {"odd": Odd(), "nan": float("nan"), "lone": "\ud800", "text": "ü\x00"}

    async def script(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        heard.append(messages)
        if len(messages) > 1:
            yield "done"
        else:
            yield {0: DeltaThinkingPart(content="hmm", signature="sealed")}
            yield {1: DeltaToolCall("look", "{}", tool_call_id="c1")}
            yield {2: DeltaToolCall("erase", '{"path": "a"}', tool_call_id="c2")}

    agent = agent_of(script, tools=[look, Tool(erase, requires_approval=True)])
    pause = paused(await collect(served(agent)))
    rest = await collect(served(agent), continuation=going_on(pause))
    assert text_of(rest) == "done"
    thought, *_ = heard[-1][1].parts
    assert (thought.content, getattr(thought, "signature", None)) == ("hmm", "sealed")  # type: ignore[union-attr]


async def test_an_agent_names_tools_that_require_approval(collect: Collect) -> None:
    agent = innkeeper.Agent("a", "test", tools=[erase], requires_approval=["erase"])
    runtime = DeclaredRuntime(agent, "a", RuntimeSettings())
    assert [action.name for action in paused(await collect(runtime, 'call erase {"path": "a"}')).actions] == ["erase"]


@pytest.mark.parametrize(("wrong", "told"), [(["erse"], "names 'erse', which is none"), ("erase", "list of names")])
def test_a_name_that_would_protect_nothing_is_refused(wrong: Any, told: str) -> None:
    with pytest.raises(Invalid, match=told) as refused:
        innkeeper.Agent("a", "test", tools=[erase], requires_approval=wrong)
    assert refused.value.param == "requires_approval"


async def test_a_tool_that_is_gone_when_its_call_is_approved_is_told_to_the_model(collect: Collect) -> None:
    said = 'call erase {"path": "a"}'
    pause = paused(await collect(served(scripted(tools=[tool(requires_approval=True)(erase)])), said))
    rest = await collect(served(scripted()), said, continuation=going_on(pause))
    ((kind, why),) = returned(rest).values()
    assert kind == "error" and "erase" in why


async def test_an_action_that_nobody_has_answered_is_denied(collect: Collect) -> None:
    agent = scripted(tools=[Tool(erase, requires_approval=True)])
    pause = paused(await collect(served(agent), 'call erase {"path": "a"}\ncall erase {"path": "b"}'))
    rest = await collect(served(agent), continuation=going_on(pause, approve(pause.actions[0].id)))
    assert sorted(map(str, returned(rest).values())) == ["('error', 'The call was denied.')", "erased a"]


async def test_what_is_put_aside_by_a_later_version_is_refused(collect: Collect) -> None:
    agent = scripted(tools=[Tool(erase, requires_approval=True)])
    pause = paused(await collect(served(agent), 'call erase {"path": "a"}'))
    later = json.dumps({**json.loads(pause.state), "version": 99})
    with pytest.raises(AgentFailed, match="put aside by another version"):
        await collect(served(agent), continuation=going_on(type(pause)(pause.actions, later)))
