"""The app: all surfaces of the modes that are allowed, behind one dispatcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import APIRouter

from innkeeper.http import agents, chat, documents, health, injections, runs, sessions
from innkeeper.http.control import commands, engines, events, handlers, logs, metrics, streams, system, tools, traces
from innkeeper.http.control import sessions as control_sessions
from innkeeper.http.deps import House
from innkeeper.http.dispatching import Dispatcher
from innkeeper.http.openai import agents as openai_agents
from innkeeper.http.openai import completions
from innkeeper.http.sockets import sockets_are_mounted

assert sockets_are_mounted, "importing http.sockets adds the WebSocket to the chat router"

GROUPS: Mapping[str, Sequence[APIRouter]] = {
    "chat": (
        completions.router,
        openai_agents.models,
        chat.router,
        chat.stream_router,
        agents.router,
        sessions.router,
        runs.router,
        injections.router,
    ),
    "health": (health.router, metrics.scrape_router),
    "logs": (logs.router, metrics.router, traces.router),
    "api": (
        control_sessions.router,
        commands.router,
        streams.router,
        events.router,
        engines.router,
        tools.router,
        handlers.router,
        system.router,
    ),
}
"""The routers of each mode."""

_ALWAYS = (health.live_router, system.health_router)


def build(house: House, *, has_documents: bool) -> Dispatcher:
    """The dispatcher of the routes that this house's modes allow."""
    always = (*_ALWAYS, documents.router) if has_documents else _ALWAYS
    groups = [router for mode, routers in GROUPS.items() if mode in house.modes for router in routers]
    last = (openai_agents.root,) if "chat" in house.modes else ()
    return Dispatcher(house, (*always, *groups), last)
