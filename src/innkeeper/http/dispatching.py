"""Dispatching: which of our routes serves a path. It is the app's default, so a user's own routes come first.

Fixed paths are found in one look-up; then paths with parameters; agents at the root last, because any first
segment may be an agent's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.routing import BaseRoute, Match, WebSocketRoute
from starlette.types import Receive, Scope, Send

from innkeeper.core.errors import RouteNotFound
from innkeeper.http.deps import House
from innkeeper.http.problems import answer
from innkeeper.http.routes import SurfaceRoute, request_id_of, stamped

_WORDS = """
agent agents api atoms chat console credits docs health inject injections kill live logs mcp metrics
openapi.json prompts ready redoc restart runs sessions status stream tokens v1 ws
"""
KEPT_NAMES = frozenset(_WORDS.split())
"""First path segments that belong to the server, whether or not this app serves them."""


class Dispatcher:
    """The ASGI app of all our routes."""

    def __init__(self, house: House, routers: Sequence[APIRouter], last: Sequence[APIRouter]) -> None:
        self.house = house
        self.routes = [*_routes_of(routers), *_routes_of(last)]
        self._fixed: dict[str, SurfaceRoute] = {}
        self._shared: dict[str, list[SurfaceRoute]] = {}
        self._patterns: list[BaseRoute] = []
        for route in self.routes:
            if not isinstance(route, SurfaceRoute) or "{" in route.path:
                self._patterns.append(route)
            else:
                self._shared.setdefault(route.path, []).append(route)
        self._fixed = {path: routes[0] for path, routes in self._shared.items() if len(routes) == 1}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._find(scope)
        if route is not None:
            await route.handle(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4404, "reason": "Nothing is served at this path."})
        else:
            error = RouteNotFound(f"Nothing is served at {scope['path'][:200]}. See /docs.")
            response = answer(error, request_id_of(scope), is_openai=scope["path"].startswith("/v1"))
            await response(scope, receive, stamped(scope, send))

    def _find(self, scope: Scope) -> BaseRoute | None:
        path = scope["path"]
        if scope["type"] == "http":
            if (fixed := self._fixed.get(path)) is not None:
                return fixed
            if (shared := self._shared.get(path)) is not None:
                return next((route for route in shared if scope["method"] in (route.methods or ())), shared[0])
        partial: BaseRoute | None = None
        for route in self._patterns:
            match, child = route.matches(scope)
            if match is Match.FULL:
                scope.update(child)
                return route
            if match is Match.PARTIAL and partial is None:
                partial, partial_child = route, child
        if partial is not None:
            scope.update(partial_child)
        return partial


def _routes_of(routers: Iterable[APIRouter]) -> list[BaseRoute]:
    return [route for router in routers for route in router.routes if _is_ours(route)]


def _is_ours(route: Any) -> bool:
    if isinstance(route, SurfaceRoute | WebSocketRoute):
        return True
    raise TypeError(f"{route!r} is not a route of ours: make its router with innkeeper.http.routes.surface()")
