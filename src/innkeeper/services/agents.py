"""Agents: which are served, under which names, and which is the default.

Static agents are found by exact name; dynamic resolvers are asked only for names that no static agent has. Built-in
agents are found by whoever names them, unless one of yours has that name, and are listed nowhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from innkeeper.core.agents import AgentDescription, Prompts, checked_name
from innkeeper.core.errors import AgentNotFound, DuplicateAgent, NoAgents, NoDefaultAgent, ReservedName
from innkeeper.ports.agents import Resolver, Runtime


@dataclass(frozen=True, slots=True)
class ServedAgent:
    """A runtime under its public name; `data` is what a dynamic resolver returned for it."""

    name: str
    runtime: Runtime
    data: Any = None
    is_default: bool = False
    is_builtin: bool = False

    def describe(self) -> AgentDescription:
        return self.runtime.describe()

    @property
    def kind(self) -> str:
        """A word for what hosts it; `custom` for a runtime that says nothing."""
        kind = getattr(self.runtime, "kind", None)
        return kind if isinstance(kind, str) else "custom"

    def prompts(self) -> Prompts | None:
        """What it was configured to tell its model, where it says so."""
        told = getattr(self.runtime, "prompts", None)
        prompts = told() if callable(told) else None
        return prompts if isinstance(prompts, Prompts) else None


class AgentRegistry:
    """Names to agents, in order of registration."""

    def __init__(self, reserved: frozenset[str] = frozenset()) -> None:
        self._agents: dict[str, Runtime] = {}
        self._resolvers: list[tuple[Resolver, Runtime]] = []
        self._builtins: dict[str, Runtime] = {}
        self._makers: dict[str, Callable[[], Runtime]] = {}
        self._default: str | None = None
        self._reserved = reserved

    def register(
        self,
        name: str,
        runtime: Runtime,
        *,
        default: bool | None = None,
        maker: Callable[[], Runtime] | None = None,
    ) -> None:
        """Serve `runtime` as `name`. The first is the default, unless one says `default=True` or all say `False`.

        `maker` makes a runtime anew that may take the place of this one; it is called in a thread.

        Raises: Invalid, DuplicateAgent, ReservedName.
        """
        checked_name(name)
        if name in self._agents:
            raise DuplicateAgent(f"Two agents are named {name!r}. Give each agent a name of its own.", param="name")
        if name in self._reserved:
            raise ReservedName(
                f"{name!r} cannot name an agent, because the server has routes of its own under /{name}."
                " Choose another name.",
                param="name",
            )
        self._agents[name] = runtime
        if default or (default is None and self._default is None):
            self._default = name
        if maker is not None:
            self._makers[name] = maker

    def maker_of(self, name: str) -> Callable[[], Runtime] | None:
        """What makes this agent anew, if anything can."""
        return self._makers.get(name)

    def replace(self, name: str, runtime: Runtime) -> Runtime:
        """Serve another runtime under a registered name from now on; returns the one that served before."""
        before, self._agents[name] = self._agents[name], runtime
        return before

    def add_resolver(self, resolver: Resolver, runtime: Runtime) -> None:
        """Serve every name for which `resolver` returns agent data."""
        self._resolvers.append((resolver, runtime))

    def build_in(self, name: str, runtime: Runtime) -> None:
        """Serve `runtime` to whoever names it, without listing or counting it; an agent of yours comes before it."""
        self._builtins[name] = runtime

    @property
    def builtins(self) -> Iterator[ServedAgent]:
        """Those that no registered agent hides."""
        for name, runtime in self._builtins.items():
            if name not in self._agents:
                yield ServedAgent(name, runtime, is_builtin=True)

    def __iter__(self) -> Iterator[ServedAgent]:
        for name, runtime in self._agents.items():
            yield ServedAgent(name, runtime, None, name == self._default)

    def __contains__(self, name: str) -> bool:
        return name in self._agents

    def __len__(self) -> int:
        return len(self._agents)

    @property
    def is_empty(self) -> bool:
        return not self._agents and not self._resolvers

    async def find(self, name: str | None) -> ServedAgent:
        """The agent of that name, or the default.

        Raises: NoAgents, then AgentNotFound, then NoDefaultAgent, in this order of checks.
        """
        if name is not None and (runtime := self._agents.get(name)) is not None:
            return ServedAgent(name, runtime, None, name == self._default)
        if name is not None and (found := await self._resolve(name)) is not None:
            return found
        if self.is_empty:
            raise NoAgents("No agents are registered. Register one with register_agent(name, agent).")
        if name is not None:
            raise AgentNotFound(f"Agent {name!r} does not exist. GET /agents lists those that do.", param="agent_name")
        if self._default is None:
            raise NoDefaultAgent("No agent_name was given and there is no default agent.", param="agent_name")
        return ServedAgent(self._default, self._agents[self._default], None, True)

    async def _resolve(self, name: str) -> ServedAgent | None:
        for resolver, runtime in self._resolvers:
            data = resolver(name)
            if inspect.isawaitable(data):
                data = await data
            if data is not None and data is not False:
                return ServedAgent(name, runtime, data)
        builtin = self._builtins.get(name)
        return None if builtin is None else ServedAgent(name, builtin, is_builtin=True)
