"""Loading: from what a user asked to serve to the app that serves it.

What a Python file offers is, in this order:
1. an app: the module's `app`, else the one FastAPI app (`Server` and `ServerBase` are such) among its variables;
2. the agents that it registers with `register_agent`;
3. the agents among its public variables, in order: those of frameworks, runtimes, and objects whose `run` or
   `run_streamed` takes `messages`. Each goes by its own `name` where it has a usable one, else by the variable's.

Functions and classes are never guessed at: register them, or name them (`file.py:function`). The agents of several
targets become one app; an app stands alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from innkeeper.apps.applications import app_options, install, reading
from innkeeper.apps.declarations import read_agent
from innkeeper.apps.imports import add_folder, imported_again, load_file, load_module
from innkeeper.apps.registration import AppAgents, DefaultAgents, default_agents
from innkeeper.apps.targets import Source, near
from innkeeper.config import load_settings
from innkeeper.core.agents import checked_name
from innkeeper.core.errors import DuplicateAgent, InnkeeperError, Invalid, SetupError, TargetNotFound
from innkeeper.runtimes.detection import is_agent
from innkeeper.wiring import Kernel


@dataclass(frozen=True, slots=True)
class Offer:
    """An agent to serve and the target that it came from."""

    name: str
    agent: object
    target: str
    default: bool | None = None
    isolated: bool = False
    source: Source | None = None


def load_app(sources: Sequence[Source], folder: Path) -> Any:
    """The ASGI app of these sources; relative modules are looked for in `folder`.

    Raises: SetupError (TargetNotFound and DuplicateAgent among them) that names the target and the remedy.
    """
    add_folder(folder)
    offers: list[Offer] = []
    registered: dict[str, list[Offer]] = {}
    for source in {(one.path, one.module, one.attribute): one for one in sources}.values():
        found = _load(source, folder, registered)
        if isinstance(found, list):
            offers += [replace(offer, source=source) for offer in found]
        elif len(sources) > 1:
            raise SetupError(
                f"{source.target} is an app of its own, and an app is served alone: drop the other targets."
            )
        else:
            return found
    return _combined(offers, folder)


def kernel_of(app: Any) -> Kernel | None:
    """The part of an app that is Innkeeper; `None` for an app that only holds one somewhere inside."""
    kernel = getattr(getattr(app, "state", None), "innkeeper_kernel", None)
    return kernel if isinstance(kernel, Kernel) else None


def _combined(offers: Iterable[Offer], folder: Path) -> FastAPI:
    settings = load_settings()
    agents = AppAgents(reading(None))
    origins: dict[str, str] = {}
    for offer in offers:
        try:
            load = partial(_load_again, offer, folder)
            agents.add(offer.name, offer.agent, default=offer.default, isolated=offer.isolated, load=load)
        except DuplicateAgent as error:
            raise DuplicateAgent(f"{error.message} Here: {origins[offer.name]} and {offer.target}.") from None
        except InnkeeperError as error:
            raise SetupError(f"{offer.target}: {error.message}", param=error.param) from error
        origins[offer.name] = offer.target
    app = FastAPI(**app_options({}))
    install(app, settings, agents, has_documents=True)
    return app


def _load_again(offer: Offer, folder: Path) -> tuple[object, bool]:
    """The agent of an offer as its file has it now, and whether it is isolated.

    Raises: SetupError; what was loaded before then stays what other imports find.
    """
    assert offer.source is not None, "what is combined was offered by a source"
    with imported_again(), default_agents.gathering() as registered:
        found = _load(offer.source, folder, {}, registered)
        offers = {one.name: one for one in found} if isinstance(found, list) else {}
        if offer.name not in offers:
            raise SetupError(f"{offer.target} offers no agent {offer.name!r} any more.")
        now = offers[offer.name]
        return now.agent, now.isolated


def _load(
    source: Source, folder: Path, registered: dict[str, list[Offer]], registry: DefaultAgents = default_agents
) -> Any:
    """The app of a source, or the list of its offers; `registered` keeps what each module registers in `registry`."""
    if source.is_declared:
        assert source.path is not None, "a declaration is a file"
        agent = read_agent(source.path)
        return [Offer(agent.name, agent, source.target)]
    before = set(registry.names())
    module = load_file(source.path) if source.path is not None else load_module(source.module, folder)
    new = [one for one in registry.registered() if one.name not in before]
    own = registered.setdefault(
        module.__name__, [Offer(one.name, one.agent, source.target, one.default, one.isolated) for one in new]
    )
    if source.attribute:
        return _named(source, _attribute(source, module))
    app = _app_in(module, source.target)
    if app is not None:
        _check_attached(app, own, source.target)
        return app
    offers = own or _agents_in(module, source.target)
    if not offers:
        raise _nothing_in(module, source.target)
    return offers


def _app_in(module: ModuleType, target: str) -> Any:
    app = getattr(module, "app", None)
    if _is_app(app):
        return app
    apps = {id(value): name for name, value in reversed(vars(module).items()) if isinstance(value, Starlette)}
    if len(apps) > 1:
        names = sorted(apps.values())
        raise SetupError(f"{target} has several apps: {', '.join(names)}. Say which one: {target}:{names[0]}.")
    return getattr(module, *apps.values()) if apps else None


def _is_app(value: object) -> bool:
    """A Starlette or FastAPI app, or one wrapped in ASGI middleware."""
    if isinstance(value, Starlette):
        return True
    call = getattr(value, "__call__", None)  # noqa: B004 - its signature is looked at, too
    if isinstance(value, type) or inspect.isroutine(value) or not inspect.iscoroutinefunction(call):
        return False
    return list(inspect.signature(call).parameters) == ["scope", "receive", "send"]


def _check_attached(app: Any, registered: Sequence[Offer], target: str) -> None:
    """Agents that were registered for an app without Innkeeper in it would silently not be served."""
    is_empty = isinstance(app, Starlette) and not any(isinstance(route, Mount) for route in app.routes)
    if registered and is_empty and kernel_of(app) is None:
        raise SetupError(
            f"The app of {target} does not serve the agents that are registered there: call innkeeper.attach(app)."
        )


def _agents_in(module: ModuleType, target: str) -> list[Offer]:
    offers: dict[int, Offer] = {}
    for variable, value in vars(module).items():
        if not variable.startswith("_") and is_agent(value):
            offers.setdefault(id(value), Offer(_own_name(value) or variable, value, target))
    return list(offers.values())


def _own_name(agent: object) -> str | None:
    """The agent's `name`, where it can stand in a URL."""
    try:
        return checked_name(getattr(agent, "name", None))
    except Invalid:
        return None


def _nothing_in(module: ModuleType, target: str) -> TargetNotFound:
    functions = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    remedy = "Register what it should serve: register_agent(name, agent)."
    if functions:
        name = functions[0]
        remedy = f'Register the function: register_agent("{name}", {name}), or serve {target}:{name}.'
    return TargetNotFound(
        f"{target} has nothing to serve: no app, no registered agent, no agent in a variable. {remedy}"
    )


def _attribute(source: Source, module: ModuleType) -> Any:
    value: Any = module
    for name in source.attribute.split("."):
        known = [word for word in dir(value) if not word.startswith("_")]
        if not hasattr(value, name):
            place = source.target.rpartition(":")[0]
            raise TargetNotFound(f"{place} has no {source.attribute!r}.{near(name, known)}")
        value = getattr(value, name)
    return value


def _named(source: Source, value: Any) -> Any:
    """What an attribute stands for: an app, or one agent or several."""
    if _is_app(value):
        return value
    if isinstance(value, Mapping):
        offers = [Offer(str(name), agent, source.target) for name, agent in value.items()]
    elif isinstance(value, list | tuple):
        offers = [Offer(_called(agent, source), agent, source.target) for agent in value]
    else:
        name = _own_name(value) or getattr(value, "__name__", None) or source.attribute.rpartition(".")[2]
        return [Offer(name, value, source.target)]
    if not offers:
        raise TargetNotFound(f"{source.target} is empty: there is no agent in it.")
    return offers


def _called(agent: object, source: Source) -> str:
    name = _own_name(agent) or getattr(agent, "__name__", None)
    if not isinstance(name, str):
        raise SetupError(f"{source.target}: {agent!r} has no name. Use a dict of names and agents instead of a list.")
    return name
