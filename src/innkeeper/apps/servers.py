"""Servers: `ServerBase` is a FastAPI app with an `agent` decorator; `Server` takes a list of agents."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

from innkeeper.apps.applications import App, app_options, has_documents, install, reading
from innkeeper.apps.registration import AppAgents
from innkeeper.config import Settings, load_settings
from innkeeper.core.errors import Invalid
from innkeeper.http.hooks import Hooks
from innkeeper.ports.agents import Resolver
from innkeeper.runtimes.detection import adapt

HookT = TypeVar("HookT", bound=Callable[..., Any])
AgentT = TypeVar("AgentT")


class AgentDecorator:
    """`@app.agent(name)`, `@app.agent(resolver)`, `@app.agent.before_request`, `@app.agent.finalize_request`."""

    def __init__(self, agents: AppAgents, hooks: Hooks) -> None:
        self._agents = agents
        self._hooks = hooks

    def __call__(
        self, name: str | Resolver, *, default: bool | None = None, isolated: bool = False
    ) -> Callable[[AgentT], AgentT]:
        """Serve the decorated agent as `name`, or for every name for which a resolver returns agent data.

        A resolver may be sync or async; `False` or `None` means that there is no such agent. An `isolated` agent has
        an event loop of its own, in a thread, and may block it.
        """

        def serve(agent: AgentT) -> AgentT:
            if callable(name):
                label = getattr(agent, "__name__", "dynamic")
                runtime = adapt(agent, label, self._agents.settings, isolated=isolated)
                self._agents.registry.add_resolver(name, runtime)
            else:
                self._agents.add(name, agent, default=default, isolated=isolated)
            return agent

        return serve

    @overload
    def before_request(self, hook: HookT) -> HookT: ...

    @overload
    def before_request(self, *, required: bool = False) -> Callable[[HookT], HookT]: ...

    def before_request(self, hook: Any = None, *, required: bool = False) -> Any:
        """Call `hook(request)` before each request to an agent. It rejects by raising an HTTP error.

        Other exceptions are logged and passed over, unless the hook is `required=True`: then they answer 500.
        """

        def keep(hook: HookT) -> HookT:
            self._hooks.before.append((hook, required))
            return hook

        return keep if hook is None else keep(hook)

    def finalize_request(self, hook: HookT) -> HookT:
        """Call `hook(request, response)` once when a request has ended, after the last byte."""
        self._hooks.finalize.append(hook)
        return hook


class ServerBase(App):
    """A FastAPI app that serves the agents that are declared on it."""

    def __init__(self, *, settings: Settings | None = None, **options: Any) -> None:
        super().__init__(**app_options(options))
        self._agents = AppAgents(reading(settings))
        settings = settings or load_settings()
        self.kernel = install(self, settings, self._agents, has_documents=has_documents(options))
        self.agent = AgentDecorator(self._agents, self.kernel.house.hooks)


class Server(ServerBase):
    """A `ServerBase` that registers the agents it is given, each under its own `name`."""

    def __init__(self, agents: Iterable[Any] = (), *, settings: Settings | None = None, **options: Any) -> None:
        super().__init__(settings=settings, **options)
        for agent in agents:
            self._agents.add(_name_of(agent), agent)


def _name_of(agent: Any) -> str:
    name = getattr(agent, "name", None)
    if isinstance(name, str) and name:
        return name
    if inspect.isroutine(agent):
        return agent.__name__
    raise Invalid(f"{agent!r} has no name: give it a `name` attribute, or use @app.agent(name).", param="name")
