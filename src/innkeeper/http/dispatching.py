"""Dispatching: which route serves a path: a user's own first, then ours.

Of ours, fixed paths are found in one look-up; then paths with parameters; agents at the root last, because any
first segment may be an agent's name. A user's catch-all, such as a mount at `/`, gets only what ours leave over.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.exception_handlers import http_exception_handler
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Mount, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from innkeeper.core.errors import InnkeeperError, RouteNotFound
from innkeeper.http.bounds import counted
from innkeeper.http.deps import House
from innkeeper.http.gates import PUBLIC, Pending
from innkeeper.http.problems import answer
from innkeeper.http.routes import SurfaceRoute, request_id_of, stamped

_WORDS = """
actions agent agents api atoms chat console credits docs health inject injections kill live logs mcp metrics
openapi.json prompts ready redoc restart runs sessions status stream tokens v1 ws
"""
KEPT_NAMES = frozenset(_WORDS.split())
"""First path segments that belong to the server, whether or not this app serves them."""


_NOWHERE = "unmatched"


class Dispatcher:
    """The ASGI app of all our routes."""

    def __init__(self, house: House, routers: Sequence[APIRouter], last: Sequence[APIRouter]) -> None:
        self.house = house
        self._last = _routes_of(last)
        self.routes = [*_routes_of(routers), *self._last]
        self._fixed: dict[str, SurfaceRoute] = {}
        self._shared: dict[str, list[SurfaceRoute]] = {}
        self._patterns: list[BaseRoute] = []
        for route in self.routes[: len(self.routes) - len(self._last)]:
            if not isinstance(route, SurfaceRoute) or "{" in route.path:
                self._patterns.append(route)
            else:
                self._shared.setdefault(route.path, []).append(route)
        self._fixed = {path: routes[0] for path, routes in self._shared.items() if len(routes) == 1}
        self.fast = {path: route for path, route in self._fixed.items() if route.is_fast}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self.find(scope) or (None if _is_kept(scope) else self._pick(self._last, scope))
        if route is not None:
            await self.handle(route, scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4404, "reason": "Nothing is served at this path."})
        elif _answers_not_found(scope["app"].exception_handlers):
            raise HTTPException(404)
        else:
            error = await self._nowhere(scope)
            response = answer(error, request_id_of(scope), is_openai=scope["path"].startswith("/v1"))
            began = time.perf_counter()
            await response(scope, receive, stamped(scope, send))
            self.house.meter.answered(scope["method"], _NOWHERE, response.status_code, time.perf_counter() - began)

    async def handle(self, route: BaseRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Have `route` answer. Routes see to their requests themselves, and to WebSockets nobody does."""
        if scope["type"] == "websocket":
            receive, send = counted(self.house.bounds, scope, receive, send)
        await route.handle(scope, receive, send)

    async def _nowhere(self, scope: Scope) -> InnkeeperError:
        """What to say of a path that leads nowhere; nothing to those whom the gate does not let near."""
        try:
            admitted = self.house.gate.admit(scope, PUBLIC)
            if isinstance(admitted, Pending):
                await admitted
        except InnkeeperError as refusal:
            return refusal
        return RouteNotFound(f"Nothing is served at {scope['path'][:200]}. See /docs.")

    def find(self, scope: Scope) -> BaseRoute | None:
        """The route of ours for a path that is ours, or of an agent of that name; the scope gets its parameters."""
        path = get_route_path(scope) if scope.get("root_path") else scope["path"]
        if scope["type"] == "http":
            if (fixed := self._fixed.get(path)) is not None:
                return fixed
            if (shared := self._shared.get(path)) is not None:
                scope["innkeeper.methods"] = frozenset().union(*(route.methods or () for route in shared))
                return next((route for route in shared if scope["method"] in (route.methods or ())), shared[0])
        if path[1:].partition("/")[0] in self.house.agents:
            return self._pick(self._last, scope)
        return self._pick(self._patterns, scope)

    @staticmethod
    def _pick(routes: Iterable[BaseRoute], scope: Scope) -> BaseRoute | None:
        """The first route that matches; one that takes other methods if there is no better."""
        partial: tuple[BaseRoute, Scope] | None = None
        methods: set[str] = set()
        for route in routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                scope.update(child)
                return route
            if match is Match.PARTIAL:
                methods.update(getattr(route, "methods", None) or ())
                partial = partial or (route, child)
        if partial is None:
            return None
        scope.update(partial[1])
        scope["innkeeper.methods"] = methods
        return partial[0]


def _is_kept(scope: Scope) -> bool:
    """Whether a path is the server's own, though nothing is served there; no agent found by its name answers there."""
    return get_route_path(scope)[1:].partition("/")[0] in KEPT_NAMES


class Front:
    """What an app's router does first: decides between the user's own routes and ours.

    A user's own route wins if it takes the path and the method; one that takes another method does not hide
    ours. What is neither goes to the router, whose default is the dispatcher.
    """

    def __init__(self, router: Router, dispatcher: Dispatcher) -> None:
        self._router = router
        self._dispatcher = dispatcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and not self._is_the_users(scope):
            route = self._dispatcher.find(scope)
            if route is not None:
                scope.setdefault("router", self._router)
                await self._dispatcher.handle(route, scope, receive, send)
                return
        await self._router.app(scope, receive, send)

    def _is_the_users(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is Match.FULL and not _is_catch_all(route) for route in self._router.routes)


class ShortWay:
    """An app without middleware and routes of its user's has nothing to ask before a fixed route of ours.

    FastAPI's own layers, which guard users' code, cost a request as much as a whole bare app does.
    """

    def __init__(self, app: Any, full: ASGIApp, dispatcher: Dispatcher) -> None:
        self._app = app
        self._full = full
        self._fast = dispatcher.fast

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope.get("root_path") and not self._app.router.routes:
            route = self._fast.get(scope["path"])
            if route is not None:
                scope["router"] = self._app.router
                await route.handle(scope, receive, send)
                return
        await self._full(scope, receive, send)


def shorten(app: Any, dispatcher: Dispatcher) -> None:
    """Let requests to fixed routes of ours take the short way, unless the app turns out to have middleware."""
    build_full = app.build_middleware_stack

    def build() -> ASGIApp:
        full: ASGIApp = build_full()
        return full if app.user_middleware else ShortWay(app, full, dispatcher)

    app.build_middleware_stack = build


_CATCH_ALL = re.compile(r"/\{\w+:path\}")


def _is_catch_all(route: Any) -> bool:
    path = getattr(route, "path", None)
    return path in ("", "/") if isinstance(route, Mount) else path is not None and bool(_CATCH_ALL.fullmatch(path))


def _answers_not_found(handlers: Mapping[Any, Any]) -> bool:
    """Whether the user has a page of their own for paths that lead nowhere."""
    return 404 in handlers or handlers.get(HTTPException) not in (None, http_exception_handler)


def _routes_of(routers: Iterable[APIRouter]) -> list[BaseRoute]:
    return [route for router in routers for route in router.routes if _is_ours(route)]


def _is_ours(route: Any) -> bool:
    if isinstance(route, SurfaceRoute | WebSocketRoute):
        return True
    raise TypeError(f"{route!r} is not a route of ours: make its router with innkeeper.http.routes.surface()")
