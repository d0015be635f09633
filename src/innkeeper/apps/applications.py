"""Applications: `create_app` makes a FastAPI app that serves agents; `attach` puts the same into yours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from innkeeper.apps.registration import AppAgents, default_agents
from innkeeper.config import Settings, load_settings
from innkeeper.http.app import build
from innkeeper.version import __version__
from innkeeper.wiring import Kernel, runtime_settings

_DESCRIPTION = "One stored run, every protocol attached to it."


def create_app(*, settings: Settings | None = None, **options: Any) -> FastAPI:
    """A FastAPI app with every route, serving the agents of `register_agent`.

    Routes, middleware and mounts added to it come before ours. `settings` default to those of the
    environment; `options` go to FastAPI.

    Raises: SetupError for settings that cannot be.
    """
    app = FastAPI(**{"title": "Innkeeper", "version": __version__, "description": _DESCRIPTION, **options})
    attach(app, settings=settings)
    return app


def attach(app: FastAPI, *, settings: Settings | None = None, agents: AppAgents | None = None) -> Kernel:
    """Put every route of Innkeeper into an existing FastAPI app, behind that app's own routes and middleware.

    Serves the agents of `register_agent`, unless `agents` are given.

    Raises: SetupError for settings that cannot be; ValueError if the app has Innkeeper in it already.
    """
    if getattr(app.state, "innkeeper", None) is not None:
        raise ValueError("Innkeeper is attached to this app already.")
    settings = settings or load_settings()
    if agents is None:
        agents = AppAgents(runtime_settings(settings))
        default_agents.join(agents)
    kernel = Kernel(settings, agents.registry)
    kernel.house.keep_alive = agents
    app.state.innkeeper = kernel.house
    dispatcher = build(kernel.house)
    app.router.default = dispatcher
    app.router.lifespan_context = _lifespan(app.router.lifespan_context, kernel)
    _document(app, dispatcher.routes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            allow_credentials="*" not in settings.cors_origins,
            expose_headers=["x-request-id", "x-response-time", "x-run-id", "x-session-id", "retry-after"],
        )
    return kernel


def _lifespan(own: Any, kernel: Kernel) -> Any:
    """The app's own lifespan around ours."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with own(app) as state:
            await kernel.house.ready()
            try:
                yield state
            finally:
                await kernel.stop()

    return lifespan


def _document(app: FastAPI, routes: list[Any]) -> None:
    """Make `/openapi.json` tell of the app's own routes and of ours."""

    def openapi() -> dict[str, Any]:
        version = app.router._get_routes_version()
        if not app.openapi_schema or app._openapi_routes_version != version:
            app.openapi_schema = get_openapi(
                title=app.title,
                version=app.version,
                openapi_version=app.openapi_version,
                summary=app.summary,
                description=app.description,
                routes=[*app.routes, *routes],
                tags=app.openapi_tags,
                servers=app.servers,
            )
            app._openapi_routes_version = version
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
