"""The app: all surfaces of the modes that are allowed, behind one dispatcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import APIRouter

from innkeeper.http import agents, chat, documents, health, injections, runs, sessions
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
    "health": (health.router,),
}
"""The routers of each mode; liveness is always there."""


def build(house: House, *, has_documents: bool) -> Dispatcher:
    """The dispatcher of the routes that this house's modes allow."""
    always = (health.live_router, documents.router) if has_documents else (health.live_router,)
    groups = [router for mode, routers in GROUPS.items() if mode in house.modes for router in routers]
    last = (openai_agents.root,) if "chat" in house.modes else ()
    return Dispatcher(house, (*always, *groups), last)
