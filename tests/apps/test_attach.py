"""Innkeeper inside an app that is somebody's own already: theirs stays theirs."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from innkeeper import agent_router, attach, create_app, load_settings, register_agent, session_router, stream_router
from innkeeper.testing import create_test_client
from tests.support.apps import completion, content
from tests.support.servers import clean_environment, serve_app


class Item(BaseModel):
    price: int


def shop() -> FastAPI:
    """An app with a lifespan, middleware, handlers and routes of its own."""
    calls: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        calls.append("open")
        yield {"till": "full"}
        calls.append("closed")

    app = FastAPI(title="Shop", lifespan=lifespan)
    app.state.calls = calls

    @app.middleware("http")
    async def mark(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-shop"] = "yes"
        return response

    @app.exception_handler(KeyError)
    async def on_key_error(request: Request, error: KeyError) -> Response:
        return PlainTextResponse("no such thing", 410)

    @app.get("/till")
    async def till(request: Request) -> str:
        return str(request.state.till)

    @app.post("/items")
    async def sell(item: Item) -> Item:
        return item

    @app.get("/forbidden")
    async def forbidden() -> None:
        raise HTTPException(403, {"why": "because"}, headers={"x-own": "1"})

    @app.get("/missing")
    async def missing() -> None:
        raise KeyError("x")

    @app.get("/sessions")
    async def sessions() -> str:
        return "my own sessions"

    @app.get("/chat")
    async def chat_page() -> str:
        return "a page"

    return app


def attached() -> FastAPI:
    register_agent("echo", lambda messages: messages[-1]["content"])
    app = shop()
    attach(app)
    return app


def test_the_users_lifespan_state_middleware_and_routes_go_on_beside_ours() -> None:
    app = attached()
    with create_test_client(app) as client:
        assert app.state.calls == ["open"]
        assert client.get("/till").json() == "full"
        assert client.get("/sessions").json() == "my own sessions"
        answer = client.post("/chat", json={"input": "Hi"})
        assert (answer.json()["output"], answer.headers["x-shop"]) == ("Hi", "yes")
        assert client.get("/sessions/none").json()["error"]["code"] == "SESSION_NOT_FOUND"
    assert app.state.calls == ["open", "closed"]


def test_a_route_of_the_users_hides_ours_only_for_its_own_method() -> None:
    client = create_test_client(attached())
    assert client.get("/chat").json() == "a page"
    assert client.post("/chat", json={"input": "Hi"}).status_code == 200
    assert client.post("/sessions", json={}).status_code == 201


def test_errors_of_the_users_routes_keep_their_own_shape() -> None:
    client = create_test_client(attached())
    refused = client.get("/forbidden")
    assert (refused.status_code, refused.json()) == (403, {"detail": {"why": "because"}})
    assert refused.headers["x-own"] == "1"
    invalid = client.post("/items", json={"price": "much"})
    assert (invalid.status_code, invalid.json()["detail"][0]["type"]) == (422, "int_parsing")
    assert "error" not in invalid.json()
    assert (client.get("/missing").status_code, client.get("/missing").text) == (410, "no such thing")
    assert client.put("/till").json() == {"detail": "Method Not Allowed"}


def test_our_errors_keep_our_shape_whatever_handlers_the_user_has() -> None:
    app = attached()

    @app.exception_handler(Exception)
    async def on_anything(request: Request, error: Exception) -> Response:
        return JSONResponse({"mine": True}, 500)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"mine": True}, error.status_code)

    client = create_test_client(app)
    assert client.post("/chat", json={}).json()["error"]["code"] == "VALIDATION_ERROR"
    assert client.get("/agents/none").json()["error"]["code"] == "AGENT_NOT_FOUND"
    assert client.get("/forbidden").json() == {"mine": True}


def test_a_page_of_the_users_for_paths_that_lead_nowhere_is_shown() -> None:
    assert create_test_client(attached()).get("/no/such/path").json()["error"]["code"] == "NOT_FOUND"
    app = shop()
    attach(app)

    @app.exception_handler(404)
    async def nowhere(request: Request, error: Exception) -> Response:
        return PlainTextResponse("lost?", 404)

    client = create_test_client(app)
    assert client.get("/no/such/path").text == "lost?"
    assert client.get("/sessions/none").json()["error"]["code"] == "SESSION_NOT_FOUND"


def test_the_users_document_and_pages_stay_and_tell_of_both() -> None:
    client = create_test_client(attached())
    document = client.get("/openapi.json").json()
    assert document["info"]["title"] == "Shop"
    assert {"/items", "/v1/chat/completions", "/agents"} <= set(document["paths"])
    assert {"get", "post"} <= set(document["paths"]["/chat"])
    assert "cdn.jsdelivr.net" in client.get("/docs").text


def test_an_app_without_documentation_gets_none_from_us() -> None:
    register_agent("echo", lambda messages: "")
    app = FastAPI(openapi_url=None)
    attach(app)
    client = create_test_client(app)
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


def test_attaching_twice_is_refused() -> None:
    app = attached()
    with pytest.raises(ValueError, match="attached to this app already"):
        attach(app)


def test_a_website_mounted_at_the_root_leaves_our_routes_alone(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<h1>Home</h1>")
    app = attached()
    app.mount("/", StaticFiles(directory=tmp_path / "site", html=True))
    client = create_test_client(app)
    assert client.get("/").text == "<h1>Home</h1>"
    assert client.get("/agents").json()[0]["name"] == "echo"
    assert content(client.post("/echo/chat/completions", json=completion("Hi"))) == "Hi"
    assert client.get("/no-agent").status_code == 404


def test_a_route_of_the_users_at_an_agents_path_wins() -> None:
    app = attached()

    @app.get("/echo")
    async def own() -> str:
        return "mine"

    client = create_test_client(app)
    assert client.get("/echo").json() == "mine"
    assert content(client.post("/echo/chat/completions", json=completion("Hi"))) == "Hi"


@pytest.mark.parametrize(
    ("router", "path"), [(agent_router, "/agents"), (session_router, "/sessions"), (stream_router, "/stream?input=Hi")]
)
def test_a_router_without_attach_says_what_is_missing(router: APIRouter, path: str) -> None:
    app = FastAPI()
    app.include_router(router)
    with pytest.raises(RuntimeError, match=r"innkeeper\.attach\(app\)"):
        TestClient(app).get(path)


def test_routers_work_under_a_prefix_and_behind_the_gate(tmp_path: Path) -> None:
    def open_hours(request: HTTPConnection) -> None:
        if "x-late" in request.headers:
            raise HTTPException(418, "closed")

    register_agent("echo", lambda messages: messages[-1]["content"])
    app = FastAPI()
    attach(app)
    for router in (agent_router, session_router, stream_router):
        app.include_router(router, prefix="/ai", dependencies=[Depends(open_hours)])
    client = create_test_client(app)
    assert client.get("/ai/agents").json()[0]["name"] == "echo"
    assert client.post("/ai/sessions", json={"id": "s"}).status_code == 201
    assert client.get("/sessions/s").status_code == 200
    assert client.get("/ai/stream", params={"input": "Hi"}).text.endswith("data: [DONE]\n\n")
    with client.websocket_connect("/ai/ws/chat") as connection:
        connection.send_json({"input": "Hi"})
        assert connection.receive_json()["type"] == "run"
    late = client.get("/ai/agents", headers={"x-late": "1"})
    assert (late.status_code, late.json()["detail"]) == (418, "closed")

    locked = FastAPI()
    attach(locked, settings=load_settings({"force_auth": True, "data_dir": tmp_path / "locked"}))
    locked.include_router(agent_router, prefix="/ai")
    with create_test_client(locked) as client:
        assert client.get("/ai/agents").status_code == 401
        assert client.get("/agents").status_code == 401


def test_an_app_of_ours_works_where_it_is_mounted() -> None:
    register_agent("echo", lambda messages: messages[-1]["content"])
    parent = FastAPI()
    parent.mount("/ai", create_app())
    with serve_app(parent) as url, httpx2.Client(base_url=url, timeout=10) as client:
        assert client.get("/ai/live").json() == {"status": "alive"}
        said = client.post("/ai/chat", json={"input": "Hi", "session_id": "s"}).json()["output"]
        assert said == "Hi"
        assert content(client.post("/ai/v1/chat/completions", json=completion("Hi", model="echo"))) == "Hi"
        assert content(client.post("/ai/echo/chat/completions", json=completion("Hi"))) == "Hi"
        assert client.get("/ai/sessions/s").json()["message_count"] == 2
        assert client.get("/ai/no/such/path").json()["error"]["code"] == "NOT_FOUND"
        assert client.get("/ai/openapi.json").json()["servers"] == [{"url": "/ai"}]
        assert "'/ai/openapi.json'" in client.get("/ai/docs").text
        assert client.get("/ai/docs/swagger-ui.css").status_code == 200
        assert client.get("/chat").status_code == 404


MOUNTED = """
import asyncio, sys
import httpx2
from fastapi import FastAPI
from innkeeper import create_app, register_agent

register_agent("echo", lambda messages: messages[-1]["content"])
parent = FastAPI()
parent.mount("/ai", create_app())

async def main():
    transport = httpx2.ASGITransport(parent, client=("testclient", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        print((await client.post("/ai/chat", json={"input": "Hi"})).json()["output"])

asyncio.run(main())
"""


def test_a_mounted_app_that_nobody_stops_lets_its_process_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", MOUNTED],
        env=clean_environment(tmp_path / "data"),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("Hi\n", "")


def test_what_a_proxy_passes_on_of_a_client_does_not_make_it_local(tmp_path: Path) -> None:
    app = create_app(settings=load_settings({"data_dir": tmp_path / "data"}))
    head = b"GET /sessions HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: testclient\r\nconnection: close\r\n\r\n"
    with serve_app(app) as url, socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
        connection.sendall(head)
        assert connection.recv(64).startswith(b"HTTP/1.1 401")
