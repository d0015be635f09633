"""Which runtime hosts what."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.errors import SetupError
from innkeeper.core.events import AgentEvent, TextDelta
from innkeeper.core.runs import Turn
from innkeeper.runtimes.detection import adapt
from innkeeper.runtimes.functions import FunctionRuntime
from innkeeper.runtimes.objects import ObjectRuntime
from innkeeper.runtimes.settings import RuntimeSettings

SETTINGS = RuntimeSettings()


class OwnRuntime:
    def describe(self) -> AgentDescription:
        return AgentDescription("own")

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent]:
        yield TextDelta("x")


class CallableAgent:
    def __call__(self, messages: list[Any]) -> str:
        return ""


def test_a_runtime_is_taken_as_it_is() -> None:
    runtime = OwnRuntime()
    assert adapt(runtime, "a", SETTINGS) is runtime


def test_functions_and_objects_get_their_runtimes() -> None:
    assert isinstance(adapt(lambda messages: "", "a", SETTINGS), FunctionRuntime)
    assert isinstance(adapt(CallableAgent(), "a", SETTINGS), FunctionRuntime)
    assert isinstance(adapt(SimpleNamespace(run=lambda messages: ""), "a", SETTINGS), ObjectRuntime)


def test_agents_of_frameworks_get_their_runtimes() -> None:
    agents = pytest.importorskip("agents")
    from pydantic_ai import Agent as PydanticAgent

    from innkeeper.runtimes.declared import Agent

    def named(agent: object) -> str:
        return type(adapt(agent, "a", SETTINGS)).__name__

    assert named(Agent(name="a", model="test")) == "DeclaredRuntime"
    assert named(PydanticAgent("test")) == "PydanticAIRuntime"
    assert named(agents.Agent(name="a")) == "OpenAIAgentsRuntime"


def test_an_agent_class_of_a_user_s_own_agents_folder_is_no_sdk_agent() -> None:
    own = type("Agent", (), {"__module__": "agents.weather", "run": lambda self, messages: ""})
    assert isinstance(adapt(own(), "a", SETTINGS), ObjectRuntime)


@pytest.mark.parametrize("agent", [None, 3, "gpt-4o", {"name": "a"}, object()])
def test_what_cannot_be_served_is_refused_with_what_can(agent: object) -> None:
    with pytest.raises(SetupError, match=r"The agent 'a' is .* cannot be served. Accepted are a function") as refused:
        adapt(agent, "a", SETTINGS)
    assert type(agent).__name__ in str(refused.value)


def test_a_class_is_refused_with_the_advice_to_make_an_instance() -> None:
    with pytest.raises(SetupError, match=r"Pass an instance of it: OwnRuntime\(\.\.\.\)"):
        adapt(OwnRuntime, "a", SETTINGS)


def test_detection_imports_no_framework() -> None:
    code = (
        "import sys; from innkeeper.runtimes.detection import adapt; from innkeeper.runtimes.settings import *;"
        "adapt(lambda messages: '', 'a', RuntimeSettings());"
        "print([name for name in ('pydantic_ai', 'pydantic', 'agents', 'starlette', 'openai') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"
