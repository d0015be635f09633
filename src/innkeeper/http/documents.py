"""Documents: `/openapi.json` and the pages that show it, `/docs` and `/redoc`, for callers who are known.

The pages' scripts and styles come out of this server, so that they work without the internet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import FileResponse, JSONResponse, Response

from innkeeper.core.errors import RouteNotFound
from innkeeper.http.routes import needs, surface

router = surface(tags=["Documents"])

ASSETS: Mapping[str, str] = {
    "favicon.png": "image/png",
    "redoc.standalone.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
"""The files behind the pages, and their media types."""

_OWN_IMAGES = "img-src 'self' data:"
"""Redoc's script would fetch its maker's logo from the internet."""
_UNLISTED: dict[str, Any] = {"include_in_schema": False, "openapi_extra": needs("docs:read")}


@router.get("/openapi.json", **_UNLISTED)
async def openapi(request: Request) -> Response:
    """This document."""
    document = await asyncio.to_thread(request.app.openapi)  # the first time it takes a good part of a second
    base = _base(request)
    servers = document.get("servers", [])
    if base and base not in {server.get("url") for server in servers}:
        document = {**document, "servers": [{"url": base}, *servers]}
    return JSONResponse(document)


@router.get("/docs", **_UNLISTED)
async def docs(request: Request) -> Response:
    """The routes as a page on which they can be tried."""
    base = _base(request)
    return get_swagger_ui_html(
        openapi_url=f"{base}/openapi.json",
        title=request.app.title,
        swagger_js_url=f"{base}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{base}/docs/swagger-ui.css",
        swagger_favicon_url=f"{base}/docs/favicon.png",
    )


@router.get("/redoc", **_UNLISTED)
async def redoc(request: Request) -> Response:
    """The routes as a page to read."""
    base = _base(request)
    page = get_redoc_html(
        openapi_url=f"{base}/openapi.json",
        title=request.app.title,
        redoc_js_url=f"{base}/docs/redoc.standalone.js",
        redoc_favicon_url=f"{base}/docs/favicon.png",
        with_google_fonts=False,
    )
    page.headers["content-security-policy"] = _OWN_IMAGES
    return page


@router.get("/docs/{name}", **_UNLISTED)
async def asset(name: str) -> Response:
    """A file behind the pages."""
    if name not in ASSETS:
        raise RouteNotFound(f"Nothing is served at /docs/{name[:200]}.")
    headers = {"cache-control": "private, max-age=86400", "x-content-type-options": "nosniff"}
    return FileResponse(_folder() / name, media_type=ASSETS[name], headers=headers)


def _base(request: Request) -> str:
    """Where the app is mounted."""
    return str(request.scope.get("root_path", "")).rstrip("/")


@cache
def _folder() -> Path:
    """The static files of the package `fastapi_offline`, whose code is not used."""
    found = find_spec("fastapi_offline")
    if found is None or not found.submodule_search_locations:
        raise RouteNotFound("The files of these pages are missing: pip install fastapi-offline")
    return Path(found.submodule_search_locations[0]) / "static"
