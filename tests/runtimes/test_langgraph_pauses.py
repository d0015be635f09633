"""Graphs that ask people: interrupts as actions, answers as what a graph goes on with, in this process or another."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from operator import add as joined
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from innkeeper.core.actions import Answer, Continuation, check_actions
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import AgentEvent, Paused, StepChanged, ToolCalled, ToolReturned
from innkeeper.core.json_texts import json_value
from innkeeper.runtimes.langgraph import LangGraphRuntime
from innkeeper.runtimes.langgraph_pauses import read
from innkeeper.runtimes.settings import RuntimeSettings
from tests.support.graphs import Speaker, add, agent_graph, approval_graph, asking, asking_graph, calling, speak
from tests.support.plays import only, text_of

Collect = Callable[..., Awaitable[list[AgentEvent]]]


def hosted(graph: Any) -> LangGraphRuntime:
    return LangGraphRuntime(graph, "agent", RuntimeSettings())


def paused_in(events: list[AgentEvent]) -> Paused:
    paused = events[-1]
    assert isinstance(paused, Paused)
    check_actions(paused.actions, paused.state)
    return paused


def answered(paused: Paused, *values: object) -> Continuation:
    answers = (
        Answer(action.id, "answer", value=json.dumps(value))
        for action, value in zip(paused.actions, values, strict=True)
    )
    return Continuation(paused.state, tuple(answers))


def denied(paused: Paused, message: str | None = None) -> Continuation:
    return Continuation(paused.state, tuple(Answer(action.id, "deny", message=message) for action in paused.actions))


async def test_an_interrupt_asks_for_input_and_its_answer_is_what_it_returns(collect: Collect) -> None:
    paused = paused_in(await collect(hosted(asking_graph())))
    (action,) = paused.actions
    assert (action.kind, action.name, json.loads(action.arguments)) == ("input", "ask", {"question": "How many?"})
    for value in (3, "three", None, {"n": [1]}):
        events = await collect(hosted(asking_graph()), continuation=answered(paused, value))
        assert text_of(events) == f"You said {json.dumps(value)}."


async def test_a_denied_interrupt_returns_that_it_was_denied(collect: Collect) -> None:
    paused = paused_in(await collect(hosted(asking_graph())))
    events = await collect(hosted(asking_graph()), continuation=denied(paused, "Not now."))
    assert text_of(events) == 'You said {"decision": "deny", "message": "Not now."}.'


class Votes(TypedDict):
    topic: str
    votes: Annotated[list[str], joined]


def voting_graph() -> Any:
    def voter(name: str) -> Any:
        def vote(state: Votes) -> dict[str, Any]:
            answer = interrupt(f"{name}, {state['topic']}?")
            return {"votes": [f"{name}: {answer}"]}

        return vote

    graph = StateGraph(Votes)
    for name in ("ann", "bob"):
        graph.add_node(name, voter(name)).add_edge(START, name)
    return graph.compile()


async def test_several_interrupts_are_asked_and_answered_at_once(collect: Collect) -> None:
    paused = paused_in(await collect(hosted(voting_graph()), "tea"))
    assert sorted((action.name, json.loads(action.arguments)) for action in paused.actions) == [
        ("ann", "ann, tea?"),
        ("bob", "bob, tea?"),
    ]
    said = {"ann": "yes", "bob": "no"}
    answers = answered(paused, *(said[action.name] for action in paused.actions))
    events = await collect(hosted(voting_graph()), continuation=answers)
    assert json.loads(text_of(events))["votes"] == ["ann: yes", "bob: no"]


async def test_a_node_may_ask_again_and_each_question_has_an_id_of_its_own(collect: Collect) -> None:
    def twice(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{interrupt('first?')} {interrupt('second?')}")]}

    def runtime() -> LangGraphRuntime:
        return hosted(StateGraph(MessagesState).add_node("ask", twice).add_edge(START, "ask").compile())

    first = paused_in(await collect(runtime()))
    second = paused_in(await collect(runtime(), continuation=answered(first, "a")))
    assert [json.loads(one.actions[0].arguments) for one in (first, second)] == ["first?", "second?"]
    assert first.actions[0].id != second.actions[0].id
    assert text_of(await collect(runtime(), continuation=answered(second, "b"))) == "a b"


async def test_a_tool_that_asks_keeps_its_call_open_and_no_call_is_told_twice(collect: Collect) -> None:
    @tool
    def book(hotel: str) -> str:
        """Books a room."""
        return f"{hotel}: {interrupt(f'Book {hotel}?')}"

    @tool
    def look(hotel: str) -> str:
        """Looks at a hotel."""
        return "nice"

    def runtime() -> LangGraphRuntime:
        model = Speaker(reply=calling("look", "book", hotel="Ritz", then=lambda _: AIMessage("Booked.")))
        return hosted(agent_graph(model, [look, book]))

    first = await collect(runtime())
    paused = paused_in(first)
    assert [(one.kind, one.name, one.arguments) for one in paused.actions] == [("input", "tools", '"Book Ritz?"')]
    resumed = await collect(runtime(), continuation=answered(paused, "yes"))
    calls = {event.tool_call_id: event.tool_name for event in only(ToolCalled, first)}
    returned = {calls[event.tool_call_id]: event.result for event in only(ToolReturned, [*first, *resumed])}
    assert returned == {"look": "nice", "book": "Ritz: yes"}
    assert only(ToolCalled, resumed) == []
    assert len(only(ToolReturned, [*first, *resumed])) == 2
    assert [event.step_number for event in only(StepChanged, resumed)] == [1, 2, 2]
    assert text_of(resumed) == "Booked."


async def test_a_graph_stops_where_it_was_compiled_to_and_goes_on(collect: Collect) -> None:
    def runtime() -> LangGraphRuntime:
        return hosted(agent_graph(Speaker(reply=calling("add", a=1, b=2)), [add], interrupt_before=["tools"]))

    first = await collect(runtime(), "hello")
    paused = paused_in(first)
    (action,) = paused.actions
    assert (action.kind, action.name) == ("input", "tools")
    assert json.loads(action.arguments) == {"before": ["tools"], "next": ["tools"]}
    resumed = await collect(runtime(), "hello", continuation=answered(paused, None))
    assert [event.result for event in only(ToolReturned, resumed)] == ["3"]
    assert text_of(resumed) == "hello"
    refused = await collect(runtime(), "hello", continuation=denied(paused, "No."))
    assert [event.error for event in only(ToolReturned, refused)] == ["No."]
    assert text_of(refused) == ""


async def test_a_graph_stops_after_a_node_that_it_was_compiled_to_stop_after(collect: Collect) -> None:
    graph = agent_graph(Speaker(reply=calling("add", a=1, b=2)), [add], interrupt_after=["tools"])
    paused = paused_in(await collect(hosted(graph), "hello"))
    assert json.loads(paused.actions[0].arguments) == {"after": ["tools"], "next": ["model"]}
    assert text_of(await collect(hosted(graph), "hello", continuation=answered(paused, None))) == "hello"


async def test_an_entrypoint_asks_and_does_not_repeat_its_tasks(collect: Collect) -> None:
    done: list[str] = []

    @task
    def prepare(text: str) -> str:
        done.append(text)
        return text.upper()

    @entrypoint()
    async def ask(text: str) -> str:
        prepared = await prepare(text)
        return f"{prepared} {interrupt('go?')}"

    paused = paused_in(await collect(hosted(ask), "hello"))
    assert text_of(await collect(hosted(ask), "hello", continuation=answered(paused, "on"))) == "HELLO on"
    assert done == ["hello"]


async def test_a_request_for_approval_of_no_known_call_is_asked_as_input(collect: Collect) -> None:
    request = {
        "action_requests": [{"name": "send", "args": {"to": "ann"}}],
        "review_configs": [{"action_name": "send", "allowed_decisions": ["approve", "reject"]}],
    }

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(str(interrupt(request)))]}

    graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()
    (action,) = paused_in(await collect(hosted(graph))).actions
    assert action.kind == "input" and json.loads(action.arguments) == request


async def test_a_call_whose_arguments_the_graph_keeps_is_not_made_with_others_and_the_run_goes_on(
    collect: Collect,
) -> None:
    model = Speaker(reply=calling("speak", text="one", then=lambda messages: AIMessage(messages[-1].text)))
    graph = approval_graph(model, [speak], allowed=["approve", "reject"])
    paused = paused_in(await collect(hosted(graph)))
    answer = Answer(paused.actions[0].id, "approve", arguments='{"text": "two"}')
    events = await collect(hosted(graph), continuation=Continuation(paused.state, (answer,)))
    (returned,) = only(ToolReturned, events)
    assert returned.error == text_of(events)
    assert "does not allow" in text_of(events)


@pytest.mark.parametrize(("value", "shown"), [(b"\xff", r"b'\xff'"), ("\ud83d", "\ufffd"), (float("nan"), None)])
async def test_a_question_that_no_json_could_say_is_asked_all_the_same(
    collect: Collect, value: Any, shown: Any
) -> None:
    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(str(interrupt({"about": value})))]}

    graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()
    (action,) = paused_in(await collect(hosted(graph))).actions
    assert json_value(action.arguments) == {"about": shown}


async def test_a_state_that_nobody_can_serialise_fails_the_run_that_would_pause(collect: Collect) -> None:
    class Held(MessagesState, total=False):
        lock: Any

    graph = StateGraph(Held).add_node("hold", lambda state: {"lock": threading.Lock()}).add_node("ask", asking)
    with pytest.raises(AgentFailed, match="its state cannot be put aside"):
        await collect(hosted(graph.add_edge(START, "hold").add_edge("hold", "ask").compile()))


async def test_a_paused_run_whose_question_has_no_answer_fails(collect: Collect) -> None:
    paused = paused_in(await collect(hosted(asking_graph())))
    with pytest.raises(AgentFailed, match="has no answer"):
        await collect(hosted(asking_graph()), continuation=Continuation(paused.state, ()))


ELSEWHERE = """
import asyncio, json, sys, time
from innkeeper.core.actions import Answer, Continuation
from innkeeper.core.context import RunContext
from innkeeper.core.runs import Turn
from innkeeper.runtimes.langgraph import LangGraphRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from tests.support.graphs import asking_graph

async def go_on(state, action_id):
    context = RunContext(clock=time.monotonic, new_id=str, now=int)
    turn = Turn((), continuation=Continuation(state, (Answer(action_id, "answer", value="42"),)))
    runtime = LangGraphRuntime(asking_graph(), "agent", RuntimeSettings())
    return [event async for event in runtime.run(turn, context)]

(said,) = asyncio.run(go_on(*json.load(sys.stdin)))
print(said.content)
"""


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"version": 99}', '{"runtime": "pydantic-ai", "version": 1}'])
def test_a_state_that_another_version_or_runtime_has_put_aside_is_told(state: str) -> None:
    with pytest.raises(AgentFailed, match="put aside by another version"):
        read(state)


async def test_a_paused_run_goes_on_in_another_process(collect: Collect) -> None:
    paused = paused_in(await collect(hosted(asking_graph())))
    root = Path(__file__).parents[2]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", ELSEWHERE],
        input=json.dumps([paused.state, paused.actions[0].id]),
        capture_output=True,
        text=True,
        cwd=root,
        env={"PYTHONPATH": f"{root}:{root / 'src'}", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.stdout == "You said 42.\n", done.stderr
