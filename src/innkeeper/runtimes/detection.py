"""Detection: which runtime hosts what a user hands over.

Frameworks are told by the modules of an object's classes: an agent of a framework can only exist where
that framework has been imported, so nothing is imported here to find out.
"""

from __future__ import annotations

import inspect
from typing import Any

from innkeeper.core.errors import SetupError
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.functions import FunctionRuntime
from innkeeper.runtimes.isolated import IsolatedRuntime
from innkeeper.runtimes.objects import ObjectRuntime
from innkeeper.runtimes.settings import RuntimeSettings

ACCEPTED = (
    "a function (sync or async, returning or yielding), an object with a run(messages) method,"
    " an innkeeper Agent or Program, a pydantic_ai Agent, an Agent of the OpenAI Agents SDK,"
    " a compiled graph of LangGraph, a Runnable of LangChain, or a Runtime"
)


def adapt(agent: object, name: str, settings: RuntimeSettings, *, isolated: bool = False) -> Runtime:
    """The runtime that serves `agent` as `name`, on an event loop of its own if it is `isolated` or says so itself.

    Raises: SetupError if it is nothing that can be served.
    """
    runtime = _adapted(agent, name, settings)
    if isolated or getattr(agent, "isolated", None) is True:
        return IsolatedRuntime(runtime, name)
    return runtime


def _adapted(agent: object, name: str, settings: RuntimeSettings) -> Runtime:
    if isinstance(agent, type):
        raise SetupError(
            f"The agent {name!r} is the class {agent.__qualname__}. Pass an instance of it: {agent.__qualname__}(...).",
            param="agent",
        )
    if _is_runtime(agent):
        return agent  # type: ignore[return-value]  # that is what was just found out
    if (runtime := _of_framework(agent, name, settings)) is not None:
        return runtime
    if callable(getattr(agent, "run", None)) or callable(getattr(agent, "run_streamed", None)):
        return ObjectRuntime(agent, name, settings)
    if callable(agent):
        return FunctionRuntime(agent, name, settings)
    raise SetupError(
        f"The agent {name!r} is of type {type(agent).__qualname__}, which cannot be served. Accepted are {ACCEPTED}.",
        param="agent",
    )


def is_agent(value: object) -> bool:
    """Whether `value` is plainly meant as an agent: a framework's agent, a runtime, or an object whose `run` or
    `run_streamed` takes `messages`. A function or a class is not: most functions are none.
    """
    if isinstance(value, type) or inspect.isroutine(value) or inspect.ismodule(value):
        return False
    return _is_of_framework(value) or _is_runtime(value) or any(map(_takes_messages, _ways_to_run(value)))


def _is_of_framework(agent: object) -> bool:
    return (
        _is_a(agent, "innkeeper.runtimes.declared", "Agent")
        or _is_a(agent, "innkeeper.runtimes.programs", "Program")
        or _is_a(agent, "pydantic_ai", "AbstractAgent", "Agent")
        or (_is_a(agent, "agents", "Agent") and hasattr(agent, "handoffs"))
        or _is_a(agent, "langgraph", "Pregel")  # other runnables may be parts of something
    )


def _ways_to_run(value: object) -> tuple[object, object]:
    return getattr(value, "run", None), getattr(value, "run_streamed", None)


def _takes_messages(method: object) -> bool:
    try:
        return callable(method) and "messages" in inspect.signature(method).parameters
    except (TypeError, ValueError):
        return False


def _of_framework(agent: Any, name: str, settings: RuntimeSettings) -> Runtime | None:
    if _is_a(agent, "innkeeper.runtimes.declared", "Agent"):
        from innkeeper.runtimes.declared import DeclaredRuntime

        return DeclaredRuntime(agent, name, settings)
    if _is_a(agent, "innkeeper.runtimes.programs", "Program"):
        from innkeeper.runtimes.programs_runtime import ProgramRuntime

        return ProgramRuntime(agent, name, settings)
    if _is_a(agent, "pydantic_ai", "AbstractAgent", "Agent"):
        from innkeeper.runtimes.pydantic_ai import PydanticAIRuntime

        return PydanticAIRuntime(agent, name, settings)
    # A user's own folder may be called `agents` too: the SDK's agents have handoffs.
    if _is_a(agent, "agents", "Agent") and hasattr(agent, "handoffs"):
        from innkeeper.runtimes.openai_agents import OpenAIAgentsRuntime

        return OpenAIAgentsRuntime(agent, name, settings)
    return _of_langchain(agent, name, settings)


def _of_langchain(agent: Any, name: str, settings: RuntimeSettings) -> Runtime | None:
    if _is_a(agent, "langgraph", "Pregel"):
        from innkeeper.runtimes.langgraph import LangGraphRuntime

        return LangGraphRuntime(agent, name, settings)
    if _is_a(agent, "langgraph", "StateGraph"):
        raise SetupError(f"The graph {name!r} is not compiled. Pass graph.compile().", param="agent")
    if _is_a(agent, "langchain_core", "Runnable"):
        from innkeeper.runtimes.langchain import LangChainRuntime

        return LangChainRuntime(agent, name, settings)
    return None


def _is_a(agent: object, package: str, *names: str) -> bool:
    """Whether a class of one of these names, of that package or a module in it, is among the object's classes."""
    return any(
        kind.__name__ in names and (kind.__module__ + ".").startswith(package + ".") for kind in type(agent).__mro__
    )


def _is_runtime(agent: object) -> bool:
    run = getattr(agent, "run", None)
    if not callable(getattr(agent, "describe", None)) or not callable(run):
        return False
    try:
        return list(inspect.signature(run).parameters)[:2] == ["turn", "context"]
    except (TypeError, ValueError):
        return False
