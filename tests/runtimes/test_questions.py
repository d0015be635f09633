"""Agents of plain Python that ask people: they end with the question, and are called again with the answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from innkeeper import RunContext, require_input
from innkeeper.core.actions import Answer, Continuation
from innkeeper.core.errors import Invalid
from innkeeper.core.events import AgentEvent, Paused, TextDelta
from innkeeper.runtimes.functions import FunctionRuntime
from innkeeper.runtimes.isolated import IsolatedRuntime
from innkeeper.runtimes.objects import ObjectRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from tests.support.approvals import paused
from tests.support.plays import text_of

Collect = Callable[..., Awaitable[list[AgentEvent]]]


def told(context: RunContext) -> str:
    going_on = context.continuation
    assert going_on is not None
    return f"{going_on.state}: {json.loads(going_on.answers[0].value or 'null')['city']}"


def asked() -> Paused:
    return require_input("destination", {"question": "Where to?"}, state="booked")


async def generator(messages: Any, context: RunContext) -> AsyncIterator[object]:
    if context.continuation is None:
        yield "Well, "
        yield asked()
    else:
        yield told(context)


async def coroutine(messages: Any, context: RunContext) -> object:
    return asked() if context.continuation is None else told(context)


def plain_generator(messages: Any, context: RunContext) -> Iterator[object]:
    yield asked() if context.continuation is None else told(context)


def plain(messages: Any, context: RunContext) -> object:
    return asked() if context.continuation is None else told(context)


class Guide:
    async def run(self, messages: Any, context: RunContext) -> object:
        return await coroutine(messages, context)


def runtime_of(agent: Any, *, isolated: bool = False) -> Any:
    kind: Any = ObjectRuntime if isinstance(agent, Guide) else FunctionRuntime
    runtime = kind(agent, "guide", RuntimeSettings())
    return IsolatedRuntime(runtime, "guide") if isolated else runtime


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("agent", [generator, coroutine, plain_generator, plain, Guide()])
async def test_an_agent_ends_with_its_question_and_is_called_again_with_the_answer(
    agent: Any, isolated: bool, collect: Collect
) -> None:
    pause = paused(await collect(runtime_of(agent, isolated=isolated)))
    (action,) = pause.actions
    assert (action.kind, action.name, json.loads(action.arguments)) == (
        "input",
        "destination",
        {"question": "Where to?"},
    )
    answer = Answer(action.id, "answer", value='{"city": "Rome"}')
    rest = await collect(runtime_of(agent, isolated=isolated), continuation=Continuation(pause.state, (answer,)))
    assert text_of(rest) == "booked: Rome"


async def test_runs_at_the_same_time_find_their_own_answers(collect: Collect) -> None:
    runtime = runtime_of(coroutine)
    cities = [f"city {number}" for number in range(8)]
    answers = [Answer("a", "answer", value=json.dumps({"city": city})) for city in cities]
    runs = [collect(runtime, continuation=Continuation("s", (answer,))) for answer in answers]
    assert await asyncio.gather(*runs) == [[TextDelta(f"s: {city}")] for city in cities]


def test_each_question_is_one_of_its_own() -> None:
    assert asked().actions[0].id != asked().actions[0].id


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "a", "about": object()}, "about"),
        ({"name": "a", "about": float("nan")}, "about"),
        ({"name": "a", "state": {"a": 1}}, "state"),
    ],
)
def test_what_is_no_question_is_refused_by_name(wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as refused:
        require_input(**wrong)
    assert refused.value.param == param
