"""Registration: `register_agent` and the one process-wide registry, which a documented API asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from weakref import WeakSet

from innkeeper.config import Settings
from innkeeper.core.agents import checked_name
from innkeeper.core.errors import DuplicateAgent
from innkeeper.http.dispatching import KEPT_NAMES
from innkeeper.ports.agents import Runtime
from innkeeper.runtimes.detection import adapt
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.services.agents import AgentRegistry
from innkeeper.wiring import runtime_settings


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
        self._gathered: ContextVar[DefaultAgents | None] = ContextVar("innkeeper_gathered", default=None)

    @contextmanager
    def gathering(self) -> Iterator[DefaultAgents]:
        """What this context registers meanwhile is put aside, into what this yields, and served by nobody."""
        aside = DefaultAgents()
        token = self._gathered.set(aside)
        try:
            yield aside
        finally:
            self._gathered.reset(token)

    def add(self, name: str, agent: object, default: bool | None, isolated: bool = False) -> None:
        """Raises: Invalid, DuplicateAgent, ReservedName, SetupError."""
        aside = self._gathered.get()
        if aside is not None:
            aside.add(name, agent, default, isolated)
            return
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
    """The agents of one app, adapted with that app's settings.

    `read` gives these; it is asked again whenever an agent is made anew, for the environment may be another by then.
    """

    def __init__(self, read: Callable[[], Settings]) -> None:
        self.registry = AgentRegistry(KEPT_NAMES)
        self.variables: dict[str, str] = {}
        """What `.env` says, as it was read last."""
        self._read = read
        self.settings = self._settings_now()

    def _settings_now(self) -> RuntimeSettings:
        """Raises: SetupError."""
        settings = self._read()
        self.variables.update(said := settings.dotenv)
        for name in self.variables.keys() - said.keys():
            del self.variables[name]
        return runtime_settings(settings)

    def add(
        self,
        name: str,
        agent: object,
        *,
        default: bool | None = None,
        isolated: bool = False,
        load: Load | None = None,
    ) -> None:
        """`load` gives the agent, and whether it is isolated, as it is by then; without it, it stays the same.

        Raises: Invalid, DuplicateAgent, ReservedName, SetupError.
        """

        def make() -> Runtime:
            settings = self._settings_now()
            current, is_isolated = (agent, isolated) if load is None else load()
            return adapt(current, name, settings, isolated=is_isolated)

        runtime = adapt(agent, name, self.settings, isolated=isolated)
        self.registry.register(name, runtime, default=default, maker=make)


Load = Callable[[], tuple[object, bool]]
"""Gives an agent anew, and whether it is isolated. Raises: SetupError."""


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
