"""The public surface: names and HTTP document as snapshots, and what holds for every route."""

from __future__ import annotations

import importlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.routing import WebSocketRoute

import innkeeper
from innkeeper import ServerBase, create_app, load_settings
from innkeeper.http.control.streams import PERMISSION as stream_permission
from innkeeper.http.dispatching import KEPT_NAMES
from innkeeper.http.gates import PERMISSIONS, PUBLIC
from innkeeper.http.outlines import TAGS
from innkeeper.http.responses.sockets import PERMISSION as responses_permission
from innkeeper.http.routes import SurfaceRoute
from innkeeper.http.sockets import PERMISSION as chat_permission
from innkeeper.testing import create_test_client
from tests.support.servers import serve_app
from tests.support.snapshots import assert_snapshot

PACKAGES = ("innkeeper", "innkeeper.client", "innkeeper.testing")
OPEN_TO_ALL = {"/live", "/ready", "/health", "/api/health"}
SOCKETS = {
    "/ws/chat": chat_permission,
    "/v1/responses": responses_permission,
    "/api/sessions/{session_id}/events/stream": stream_permission,
}
OTHER_ERRORS = {("/ready", "503"), ("/mcp", "400"), ("/mcp", "406")}
"""Told as their protocols have it."""


def routes(app: FastAPI) -> list[Any]:
    """Ours."""
    return list(app.router.default.routes)  # type: ignore[attr-defined]


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    document = create_app().openapi()
    return [(path, method, told) for path, methods in document["paths"].items() for method, told in methods.items()]


def test_the_public_names_are_those_of_the_snapshot() -> None:
    names = [f"{package}.{name}" for package in PACKAGES for name in sorted(importlib.import_module(package).__all__)]
    assert_snapshot("public_names.txt", "\n".join(names) + "\n")


def test_every_public_name_is_there_and_can_be_listed() -> None:
    for package in PACKAGES:
        module = importlib.import_module(package)
        assert all(getattr(module, name) is not None for name in module.__all__)
    assert set(innkeeper.__all__) <= set(dir(innkeeper))


def test_the_http_document_is_that_of_the_snapshot() -> None:
    document = create_app().openapi()
    document["info"]["version"] = "of the release"
    assert_snapshot("openapi.json", json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def test_every_route_has_a_permission_and_only_health_is_open_to_all() -> None:
    found = routes(create_app())
    assert len(found) > 20
    for route in found:
        if isinstance(route, WebSocketRoute):
            assert SOCKETS[route.path] in PERMISSIONS
            continue
        assert isinstance(route, SurfaceRoute)
        assert route.permission in PERMISSIONS or (route.permission == PUBLIC and route.path in OPEN_TO_ALL)


def test_every_route_outside_an_agents_own_stands_under_a_name_that_agents_may_not_have() -> None:
    first = {route.path[1:].partition("/")[0] for route in routes(create_app())}
    assert first - {"{agent}"} <= KEPT_NAMES


def test_every_operation_says_who_may_call_it_what_it_does_and_how_it_fails() -> None:
    for path, method, told in operations():
        where = f"{method} {path}"
        assert told["x-permission"], where
        assert told["description"], where
        assert told["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorBody"), (
            where
        )
        for status, response in told["responses"].items():
            if status >= "4" and (path, status) not in OTHER_ERRORS:
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}, f"{where} {status}"
            elif status == "200":
                assert all(shape != {"schema": {}} for shape in response["content"].values()), where
        assert not (path.startswith("/v1") and "422" in told["responses"]), where
        if "requestBody" in told:
            is_bytes = "application/octet-stream" in told["requestBody"]["content"]  # of which none are malformed
            assert {"413", "415"} | (set() if is_bytes else {"400"}) <= told["responses"].keys(), where


def test_every_group_of_operations_says_what_it_is_for_and_each_operation_which_credentials_it_takes() -> None:
    document = create_app(openapi_tags=[{"name": "Mine", "description": "My own."}]).openapi()
    assert [tag["name"] for tag in document["tags"]] == ["Mine", *TAGS]
    assert {tag for _, _, told in operations() for tag in told["tags"]} == set(TAGS)
    known = document["components"]["securitySchemes"].keys()
    for path, method, told in operations():
        accepted = {name for one in told["security"] for name in one}
        assert accepted <= known
        assert bool(accepted) == (path not in OPEN_TO_ALL), f"{method} {path}"
        assert ("SessionToken" in accepted) == path.startswith("/api/sessions/{session_id}"), f"{method} {path}"


def test_what_the_control_plane_is_sent_has_an_example_to_try() -> None:
    schemas = create_app().openapi()["components"]["schemas"]
    for path, method, told in operations():
        if path.startswith("/api/") and "requestBody" in told:
            shape = told["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert schemas[shape]["examples"], f"{method} {path}"


@pytest.mark.parametrize("make", [create_app, ServerBase])
def test_the_pages_of_documentation_load_nothing_from_elsewhere(make: Any) -> None:
    client = create_test_client(make())
    for page in ("/docs", "/redoc"):
        text = client.get(page).text
        assert len(_sources(text)) >= 2
        for source in _sources(text):
            assert source.startswith("/docs/")
            asset = client.get(source)
            assert asset.status_code == 200
            assert len(asset.content) > 1000
    assert client.get("/openapi.json").json()["info"]["title"] == "Innkeeper"
    assert client.get("/docs/other.js").status_code == 404
    assert client.get("/docs/..%2f__init__.py").status_code == 404


def _sources(text: str) -> list[str]:
    parts = text.replace("'", '"').split('"')
    return [part for before, part in pairwise(parts) if before.endswith(("src=", "href="))]


def test_the_pages_of_documentation_ask_for_credentials(tmp_path: Path) -> None:
    app = create_app(settings=load_settings({"data_dir": tmp_path / "d", "force_auth": True}))
    with serve_app(app) as url, httpx2.Client(base_url=url) as client:
        for page in ("/docs", "/redoc", "/openapi.json", "/docs/swagger-ui.css", "/docs/none"):
            assert client.get(page).status_code == 401, page
        assert client.get("/live").status_code == 200


def test_pages_that_the_user_asks_of_fastapi_are_fastapis() -> None:
    own = create_test_client(create_app(docs_url="/manual"))
    assert "cdn.jsdelivr.net" in own.get("/manual").text
    app = ServerBase(openapi_url=None)
    app.agent("some")(lambda messages: "")
    none = create_test_client(app)
    assert [none.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404, 404, 404]
