"""Registration: `register_agent` and the one process-wide registry, which a documented API asks for."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakSet

from innkeeper.core.agents import checked_name
from innkeeper.core.errors import DuplicateAgent
from innkeeper.http.dispatching import KEPT_NAMES
from innkeeper.runtimes.detection import adapt
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.services.agents import AgentRegistry


@dataclass(frozen=True, slots=True)
class Registered:
    """What `register_agent` was told."""

    name: str
    agent: object
    default: bool | None
    isolated: bool = False


class DefaultAgents:
    """Agents that were registered for every app of this process, and the apps that must hear of more."""

    def __init__(self) -> None:
        self._agents: dict[str, Registered] = {}
        self._listeners: WeakSet[AppAgents] = WeakSet()

    def add(self, name: str, agent: object, default: bool | None, isolated: bool = False) -> None:
        """Raises: Invalid, DuplicateAgent, ReservedName, SetupError."""
        checked_name(name)
        if name in self._agents:
            raise DuplicateAgent(f"Two agents are named {name!r}. Give each agent a name of its own.", param="name")
        trial = AgentRegistry(KEPT_NAMES)
        trial.register(name, adapt(agent, name, RuntimeSettings()))
        registered = Registered(name, agent, default, isolated)
        self._agents[name] = registered
        for listener in self._listeners:
            listener.add(name, agent, default=default, isolated=isolated)

    def join(self, listener: AppAgents) -> None:
        """Hand over what there is, and later what comes."""
        for registered in self._agents.values():
            listener.add(registered.name, registered.agent, default=registered.default, isolated=registered.isolated)
        self._listeners.add(listener)

    def clear(self) -> None:
        """Forget every agent; for tests that register their own."""
        self._agents.clear()
        self._listeners.clear()

    def names(self) -> tuple[str, ...]:
        return tuple(self._agents)

    def registered(self) -> tuple[Registered, ...]:
        """All there are, in order."""
        return tuple(self._agents.values())


class AppAgents:
    """The agents of one app, adapted with that app's settings."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self.registry = AgentRegistry(KEPT_NAMES)
        self.settings = settings

    def add(self, name: str, agent: object, *, default: bool | None = None, isolated: bool = False) -> None:
        """Raises: Invalid, DuplicateAgent, ReservedName, SetupError."""
        self.registry.register(name, adapt(agent, name, self.settings, isolated=isolated), default=default)


default_agents = DefaultAgents()


def register_agent(name: str, agent: object, *, default: bool | None = None, isolated: bool = False) -> None:
    """Serve `agent` as `name` in every app that `create_app()` or `attach()` makes.

    `agent` is a function, an object with `run`, an `innkeeper.Agent`, a Pydantic AI or OpenAI Agents SDK agent,
    or a runtime. The first one registered is the default; `default=True` replaces it, and `default=False` on
    all means that there is none. An `isolated` agent has an event loop of its own, in a thread, and may block it.

    Raises: Invalid for a name that cannot stand in a URL; DuplicateAgent; ReservedName; SetupError for an
    agent of no kind that can be served.
    """
    default_agents.add(name, agent, default, isolated)
