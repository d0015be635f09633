"""The runtime for an object with `run` and, where it streams in its own way, `run_streamed`.

Both take what a function may take. `run_streamed` is asked where the caller reads along; it answers with an
async iterator or an object with `stream_events()`, or with `None`, and then `run` is asked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any

from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.errors import SetupError
from innkeeper.core.events import AgentEvent
from innkeeper.core.runs import Turn
from innkeeper.runtimes.calls import Call
from innkeeper.runtimes.functions import with_pricing
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.threads import Threads


class ObjectRuntime:
    """Hosts `agent` as the agent `name`; its `description`, `model` and `tools` are what clients are told.

    Raises: SetupError if it can neither `run` nor `run_streamed`, or one requires what cannot be given.
    """

    kind = "object"

    def __init__(self, agent: object, name: str, settings: RuntimeSettings) -> None:
        run, run_streamed = _method(agent, "run"), _method(agent, "run_streamed")
        plain = run or run_streamed
        if plain is None:
            raise SetupError(f"The agent {name!r} has neither run nor run_streamed.", param="agent")
        kind, threads = type(agent).__qualname__, Threads(settings.max_threads, name)
        self._plain = Call(plain, f"{kind}.{'run' if run else 'run_streamed'}", threads)
        self._streamed = self._plain
        if run and run_streamed:
            self._streamed = Call(run_streamed, f"{kind}.run_streamed", threads, otherwise=self._plain.play)
        self._priced = agent, run, run_streamed
        self._description = _described(agent, name)

    def describe(self) -> AgentDescription:
        self._description = with_pricing(self._description, *self._priced)
        return self._description

    def run(self, turn: Turn, context: RunContext) -> AsyncGenerator[AgentEvent | str, None]:
        context.continuation = turn.continuation
        return (self._streamed if turn.stream else self._plain).play(turn, context)


def _method(agent: object, name: str) -> Callable[..., Any] | None:
    method = getattr(agent, name, None)
    return method if callable(method) else None


def _described(agent: object, name: str) -> AgentDescription:
    description = getattr(agent, "description", None)
    return AgentDescription(
        name,
        model=_model_name(getattr(agent, "model", None)),
        description=description if isinstance(description, str) else "",
        tools=_tool_names(getattr(agent, "tools", None)),
    )


def _model_name(model: object) -> str | None:
    named = model if isinstance(model, str) else getattr(model, "model_name", None)
    return named if isinstance(named, str) else None


def _tool_names(tools: object) -> tuple[str, ...]:
    if isinstance(tools, str | bytes) or not isinstance(tools, Iterable):
        return ()
    found = (one if isinstance(one, str) else _tool_name(one) for one in tools)
    return tuple(name for name in found if name)


def _tool_name(tool: object) -> str | None:
    """The name of a function, of a tool object, or of a tool in OpenAI's form."""
    if isinstance(tool, Mapping):
        inner = tool.get("function")
        name = tool.get("name") or (inner.get("name") if isinstance(inner, Mapping) else None)
    else:
        name = getattr(tool, "name", None) or getattr(tool, "__name__", None)
    return name if isinstance(name, str) else None
