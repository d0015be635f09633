"""Applications: `create_app` makes a FastAPI app that serves agents; `attach` puts the same into yours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import copy_context
from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, request_response

from innkeeper.apps.messaging import Decorator, bus, command_decorator, event_decorator
from innkeeper.apps.registration import AppAgents, default_agents
from innkeeper.config import Settings, load_settings
from innkeeper.http.allowances import ALLOWANCE_HEADERS
from innkeeper.http.app import build
from innkeeper.http.dispatching import Front, shorten
from innkeeper.http.outlines import outline
from innkeeper.services.handlers import Handlers
from innkeeper.version import __version__
from innkeeper.wiring import Kernel

_DESCRIPTION = "One stored run, every protocol attached to it."
_PAGES = ("openapi_url", "docs_url", "redoc_url")


class App(FastAPI):
    """A FastAPI app with Innkeeper in it. `command` and `event` are decorators for handlers; see `apps.messaging`."""

    command: Decorator[Any]
    event: Decorator[Any]


def create_app(*, settings: Settings | None = None, **options: Any) -> App:
    """A FastAPI app with every route, serving the agents of `register_agent`.

    Routes, middleware and mounts added to it come before ours. `settings` default to those of the
    environment; `options` go to FastAPI.

    Raises: SetupError for settings that cannot be.
    """
    app = App(**app_options(options))
    agents = _default_agents(settings)
    install(app, settings or load_settings(), agents, has_documents=has_documents(options))
    return app


def attach(app: FastAPI, *, settings: Settings | None = None, agents: AppAgents | None = None) -> Kernel:
    """Put every route of Innkeeper into an existing FastAPI app, behind that app's own routes and middleware.

    The app keeps its own pages of documentation, which then tell of our routes too. Serves the agents of
    `register_agent`, unless `agents` are given.

    Raises: SetupError for settings that cannot be; ValueError if the app has Innkeeper in it already.
    """
    return install(app, settings or load_settings(), agents or _default_agents(settings), has_documents=False)


def reading(settings: Settings | None) -> Callable[[], Settings]:
    """How an app reads its settings: anew from all sources each time, unless it was given some."""
    here = copy_context()  # which knows what the command line said
    return lambda: settings or here.copy().run(load_settings)


def _default_agents(settings: Settings | None) -> AppAgents:
    agents = AppAgents(reading(settings))
    default_agents.join(agents)
    return agents


def app_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """FastAPI's options for an app of ours: its own pages of documentation are off, unless they are asked for."""
    pages = dict.fromkeys(_PAGES) if has_documents(options) else {}
    telemetry = {} if _can_report() else {"telemetry": _NO_TELEMETRY}
    return {"title": "Innkeeper", "version": __version__, "description": _DESCRIPTION, **pages, **telemetry, **options}


_NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False}


def _can_report() -> bool:
    """Whether OpenTelemetry's SDK is installed. Without it FastAPI would look in vain for one at each request."""
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.sdk") is not None


def has_documents(options: Mapping[str, Any]) -> bool:
    """Whether the pages of documentation are ours, behind the gate: the caller has not spoken of them."""
    return not any(name in options for name in _PAGES)


def install(app: FastAPI, settings: Settings, agents: AppAgents, *, has_documents: bool) -> Kernel:
    """What `create_app`, `attach` and `ServerBase` have in common.

    Raises: ValueError if the app has Innkeeper in it already.
    """
    if getattr(app.state, "innkeeper", None) is not None:
        raise ValueError("Innkeeper is attached to this app already.")
    handlers = Handlers(bus.handlers)
    kernel = Kernel(settings, agents.registry, handlers, agents.variables)
    kernel.house.keep_alive = agents
    app.state.innkeeper = kernel.house
    app.state.innkeeper_kernel = kernel
    vars(app).update(command=command_decorator(handlers), event=event_decorator(handlers))
    dispatcher = build(kernel.house, has_documents=has_documents)
    app.router.default = dispatcher
    app.router.middleware_stack = Front(app.router, dispatcher)
    shorten(app, dispatcher)
    app.router.lifespan_context = _lifespan(app.router.lifespan_context, kernel)
    _document(app, dispatcher.routes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            allow_credentials="*" not in settings.cors_origins,
            expose_headers=[
                "x-request-id",
                "x-response-time",
                "x-run-cursor",
                "x-run-id",
                "x-session-id",
                "x-injection-id",
                "idempotent-replayed",
                "traceparent",
                "retry-after",
                *ALLOWANCE_HEADERS,
            ],
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
    """Make the app's OpenAPI document tell of its own routes and of ours."""

    def openapi() -> dict[str, Any]:
        version = app.router._get_routes_version()
        if not app.openapi_schema or app._openapi_routes_version != version:
            app.openapi_schema = get_openapi(
                title=app.title,
                version=app.version,
                openapi_version=app.openapi_version,
                summary=app.summary,
                description=app.description,
                terms_of_service=app.terms_of_service,
                contact=app.contact,
                license_info=app.license_info,
                routes=[*app.routes, *routes],
                webhooks=app.webhooks.routes,
                tags=app.openapi_tags,
                servers=app.servers,
                separate_input_output_schemas=app.separate_input_output_schemas,
                external_docs=app.openapi_external_docs,
            )
            _say_what_is_streamed(app.openapi_schema)
            outline(app.openapi_schema)
            app._openapi_routes_version = version
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    for route in app.routes:
        if isinstance(route, Route) and route.path == app.openapi_url:
            route.app = request_response(_made_apart(app, route.endpoint))


def _made_apart(app: FastAPI, endpoint: Any) -> Any:
    """The app's own route of its document, which is made in a thread: that takes a good part of a second."""

    async def document(request: Request) -> Response:
        await asyncio.to_thread(app.openapi)
        response: Response = await endpoint(request)
        return response

    return document


def _say_what_is_streamed(document: dict[str, Any]) -> None:
    """Where a route answers with events only, take out the empty JSON schema that FastAPI adds to it."""
    for operations in document["paths"].values():
        for operation in operations.values():
            content = operation.get("responses", {}).get("200", {}).get("content", {})
            if "text/event-stream" in content and content.get("application/json") == {"schema": {}}:
                del content["application/json"]
