"""The runtime for a plain function: sync or async, returning or yielding, with any of the documented
parameters (see `signatures`). Anything callable counts; what it answers with is read by `results`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.errors import SetupError
from innkeeper.core.events import AgentEvent
from innkeeper.core.runs import Turn
from innkeeper.core.usage import Pricing
from innkeeper.runtimes.calls import Call
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.threads import Threads


class FunctionRuntime:
    """Hosts `function` as the agent `name`.

    Raises: SetupError if the function requires a parameter that the server cannot give.
    """

    kind = "function"

    def __init__(self, function: Callable[..., Any], name: str, settings: RuntimeSettings) -> None:
        if not callable(function):
            raise SetupError(f"The agent {name!r} is not callable: {function!r:.80}.", param="agent")
        self._call = Call(function, label_of(function), Threads(settings.max_threads, name))
        self._function = function
        self._description = AgentDescription(name, description=summary_of(function))

    def describe(self) -> AgentDescription:
        self._description = with_pricing(self._description, self._function)
        return self._description

    def run(self, turn: Turn, context: RunContext) -> AsyncGenerator[AgentEvent | str, None]:
        context.continuation = turn.continuation
        return self._call.play(turn, context)


def label_of(function: Callable[..., Any]) -> str:
    """The function as an error message calls it."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"The agent function {name!r}"


def summary_of(function: Callable[..., Any]) -> str:
    """The first paragraph of a function's docstring; an object's may show its defaults, secrets among them."""
    while isinstance(function, partial):
        function = function.func
    told = inspect.getdoc(function) if inspect.isroutine(function) else None
    return " ".join((told or "").split("\n\n")[0].split())


def with_pricing(description: AgentDescription, *holders: object) -> AgentDescription:
    """The description with the price as it is now: `@pricing` may stand above what registered the agent."""
    pricing = pricing_of(*holders)
    is_told = pricing is None or pricing is description.pricing
    return description if is_told else replace(description, pricing=pricing)


def pricing_of(*holders: object) -> Pricing | None:
    """What `@pricing` declared on the first of `holders` that it decorates."""
    for holder in holders:
        pricing = getattr(holder, "__innkeeper_pricing__", None)
        if isinstance(pricing, Pricing):
            return pricing
    return None
