"""The app: all surfaces of the modes that are allowed, behind one dispatcher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fastapi import APIRouter
from starlette.routing import Route, WebSocketRoute

from innkeeper.http import (
    actions,
    agents,
    chat,
    chat_files,
    chat_logs,
    credits,
    documents,
    health,
    injections,
    operations,
    runs,
    sessions,
    tokens,
    workspaces,
)
from innkeeper.http.control import commands, engines, events, handlers, logs, metrics, streams, system, tools, traces
from innkeeper.http.control import sessions as control_sessions
from innkeeper.http.deps import House
from innkeeper.http.dispatching import Dispatcher
from innkeeper.http.mcp import endpoint as mcp_endpoint
from innkeeper.http.openai import agents as openai_agents
from innkeeper.http.openai import completions, history
from innkeeper.http.openai import files as openai_files
from innkeeper.http.platform import admins as platform_admins
from innkeeper.http.platform import audit as platform_audit
from innkeeper.http.responses import conversations
from innkeeper.http.responses import routes as responses
from innkeeper.http.responses import sockets as response_sockets
from innkeeper.http.sockets import sockets_are_mounted

assert sockets_are_mounted, "importing http.sockets adds the WebSocket to the chat router"
assert response_sockets.sockets_are_mounted, "as importing responses.sockets does to the router of responses"

GROUPS: Mapping[str, Sequence[APIRouter]] = {
    "chat": (
        completions.router,
        responses.router,
        conversations.router,
        openai_agents.models,
        history.router,
        history.field_router,
        chat.router,
        chat.stream_router,
        chat_files.router,
        openai_files.router,
        agents.router,
        sessions.router,
        runs.router,
        actions.router,
        injections.router,
        mcp_endpoint.router,
    ),
    "agent": (operations.router, workspaces.router),
    "health": (health.router, metrics.scrape_router),
    "logs": (chat_logs.router, logs.router, metrics.router, traces.router),
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
    "platform": (
        tokens.router,
        credits.router,
        platform_admins.router,
        platform_audit.router,
    ),
}
"""The routers of each mode."""

_ALWAYS = (health.live_router, system.health_router)


def _groups() -> Mapping[str, str | None]:
    """The group of each route by its path. Liveness has none, so that no rate starves whoever watches a server."""
    modes = {**GROUPS, "chat": (*GROUPS["chat"], openai_agents.root)}
    found: dict[str, str | None] = {
        route.path: mode for mode, routers in modes.items() for router in routers for route in _paths(router)
    }
    found |= {route.path: "api" for route in _paths(system.health_router)}
    return found | {route.path: None for route in _paths(health.live_router)}


def _paths(router: APIRouter) -> Iterator[Route | WebSocketRoute]:
    return (route for route in router.routes if isinstance(route, Route | WebSocketRoute))


def build(house: House, *, has_documents: bool) -> Dispatcher:
    """The dispatcher of the routes that this house's modes allow."""
    always = (*_ALWAYS, documents.router) if has_documents else _ALWAYS
    groups = [router for mode, routers in GROUPS.items() if mode in house.modes for router in routers]
    last = (openai_agents.root,) if "chat" in house.modes else ()
    house.gate.groups = _groups()
    return Dispatcher(house, (*always, *groups), last)
