"""Hooks before a request: they see every way to an agent, may reject, and do no harm when they fail."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import websockets
from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import HTTPConnection

from innkeeper import ServerBase, get_context
from innkeeper.testing import MockAgent, create_test_client
from tests.support.apps import completion, content
from tests.support.servers import serve_app


def echoing() -> ServerBase:
    app = ServerBase()

    @app.agent("echo")
    async def echo(messages: Any, context: Any) -> str:
        return f"{messages[-1]['content']} {context.get('mark', '')}".strip()

    return app


async def test_hooks_see_every_surface() -> None:
    app, seen = echoing(), []
    app.agent.before_request(lambda request: seen.append((request.scope["type"], request.url.path)))
    finished: list[str] = []
    app.agent.finalize_request(lambda request, response: finished.append(request.url.path))
    with serve_app(app) as url, httpx2.Client(base_url=url) as client:
        client.post("/chat", json={"input": "Hi"})
        client.post("/chat", json={"input": "Hi", "stream": True})
        client.post("/chat/stream", json={"input": "Hi"})
        client.get("/stream", params={"input": "Hi"})
        client.post("/v1/chat/completions", json=completion(model="echo"))
        client.post("/echo/chat/completions", json=completion())
        async with websockets.connect(f"{url.replace('http', 'ws')}/ws/chat") as socket:
            for _ in range(2):
                await socket.send(json.dumps({"input": "Hi"}))
                while json.loads(await socket.recv())["type"] != "done":
                    pass
        client.get("/agents")
        client.get("/echo")
    paths = ["/chat", "/chat", "/chat/stream", "/stream", "/v1/chat/completions", "/echo/chat/completions"]
    assert seen == [*(("http", path) for path in paths), ("websocket", "/ws/chat"), ("websocket", "/ws/chat")]
    assert finished == [path for _, path in seen]


def test_a_hook_rejects_with_its_status_detail_and_headers() -> None:
    app, spy = echoing(), MockAgent("spy")
    app.agent("spy")(spy)

    @app.agent.before_request
    async def paid(request: Request) -> None:
        raise HTTPException(402, "Top up first.", headers={"x-balance": "0"})

    answer = create_test_client(app).post("/spy/chat/completions", json=completion())
    assert (answer.status_code, answer.json()["detail"]) == (402, "Top up first.")
    assert answer.json()["error"]["code"] == "INSUFFICIENT_CREDITS"
    assert answer.json()["error"]["message"] == "Top up first."
    assert answer.headers["x-balance"] == "0"
    assert spy.calls == []


def test_a_rejection_whose_detail_is_an_object_keeps_it() -> None:
    app = echoing()

    @app.agent.before_request
    async def refuse(request: Request) -> None:
        raise HTTPException(403, {"message": "Not on Sundays.", "day": "Sunday"})

    error = create_test_client(app).post("/chat", json={"input": "Hi"}).json()["error"]
    assert (error["message"], error["details"]) == ("Not on Sundays.", {"message": "Not on Sundays.", "day": "Sunday"})


async def test_a_rejected_turn_is_an_error_frame_and_the_web_socket_stays() -> None:
    app, turns = echoing(), iter([HTTPException(429, "Slow down."), None])

    @app.agent.before_request
    def sometimes(request: HTTPConnection) -> None:
        if (rejection := next(turns)) is not None:
            raise rejection

    with serve_app(app) as url:
        async with websockets.connect(f"{url.replace('http', 'ws')}/ws/chat") as socket:
            await socket.send('{"input": "Hi"}')
            frame = json.loads(await socket.recv())
            await socket.send('{"input": "Hi"}')
            assert json.loads(await socket.recv())["type"] == "run"
    assert (frame["type"], frame["error"]["message"]) == ("error", "Slow down.")


def test_an_exception_of_a_hook_is_logged_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    app = echoing()

    @app.agent.before_request
    def careless(request: Request) -> None:
        raise RuntimeError("boom")

    @app.agent.before_request
    async def careful(request: Request) -> None:
        _context().set("mark", "marked")

    with caplog.at_level(logging.ERROR):
        answer = create_test_client(app).post("/echo/chat/completions", json=completion("Hi"))
    assert content(answer) == "Hi marked"
    assert "careless" in caplog.text
    assert "boom" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit("secret")])
def test_an_exception_of_a_required_hook_answers_500_without_its_text(error: BaseException) -> None:
    app, spy = echoing(), MockAgent("spy")
    app.agent("spy")(spy)

    @app.agent.before_request(required=True)
    def authenticate(request: Request) -> None:
        raise error

    answer = create_test_client(app).post("/spy/chat/completions", json=completion())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in answer.text
    assert spy.calls == []


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions", "/echo/chat/completions"])
def test_a_hook_may_read_the_body(path: str) -> None:
    app, bodies = echoing(), []

    @app.agent.before_request
    async def look(request: Request) -> None:
        bodies.append(await request.json())

    sent = {"input": "Hi"} if path == "/chat" else completion(model="echo")
    assert create_test_client(app).post(path, json=sent).status_code == 200
    assert bodies == [sent]


def test_context_set_in_a_hook_reaches_agents_tools_and_threads_and_the_end() -> None:
    app, seen = ServerBase(), []

    def tool() -> str:
        return str(_context().get("mark"))

    @app.agent("sync")
    def sync_agent(messages: Any) -> str:
        _context().set("from_agent", True)
        return tool()

    @app.agent.before_request
    def mark(request: Request) -> None:
        _context().set("mark", "m")

    @app.agent.finalize_request
    def end(request: Request, response: Any) -> None:
        context = _context()
        seen.append((context.get("mark"), context.get("from_agent"), context.run_id is not None, context.request))

    client = create_test_client(app)
    answer = client.post("/sync/chat/completions", json=completion())
    assert content(answer) == "m"
    assert [one[:3] for one in seen] == [("m", True, True)]
    assert seen[0][3].url.path == "/sync/chat/completions"
    assert get_context() is None


def test_two_requests_do_not_share_a_context() -> None:
    app = ServerBase()
    app.agent("count")(lambda messages, context: str(context.get("n", 0)))
    app.agent.before_request(lambda request: _context().set("n", _context().get("n", 0) + 1))
    client = create_test_client(app)
    answers = [client.post("/count/chat/completions", json=completion()) for _ in range(2)]
    assert [content(answer) for answer in answers] == ["1", "1"]


@pytest.mark.parametrize("nothing", [None, False])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_resolver_that_finds_nothing_means_404_and_static_agents_win(kind: str, nothing: object) -> None:
    app = ServerBase()

    def find(name: str) -> Any:
        return {"secret": name} if name.startswith("d-") else nothing

    async def find_later(name: str) -> Any:
        return find(name)

    resolver: Callable[[str], Any] = find if kind == "sync" else find_later
    app.agent(resolver)(lambda messages, agent_data: agent_data["secret"])
    app.agent("d-static")(lambda messages: "static")
    client = create_test_client(app)
    assert content(client.post("/d-1/chat/completions", json=completion())) == "d-1"
    assert content(client.post("/d-static/chat/completions", json=completion())) == "static"
    assert client.post("/chat", json={"input": "Hi", "agent_name": "d-2"}).json()["output"] == "d-2"
    for answer in (
        client.post("/other/chat/completions", json=completion()),
        client.get("/other"),
        client.get("/agents/other"),
        client.post("/chat", json={"input": "Hi", "agent_name": "other"}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "AGENT_NOT_FOUND")
    for path in ("/d-1", "/agents/d-1", "/v1/models/d-1", "/d-1/chat/completions"):
        assert "secret" not in client.get(path).text


def test_a_middleware_of_the_users_stands_in_front_of_streams_too() -> None:
    app, seen = ServerBase(), []
    app.agent("mock")(MockAgent(chunks=["a", "b"]))

    @app.middleware("http")
    async def watch(request: Request, call_next: Any) -> Response:
        if "x-stop" in request.headers:
            return JSONResponse({"stopped": True}, 418)
        response: Response = await call_next(request)
        seen.append(response.status_code)
        return response

    client = create_test_client(app)
    assert client.post("/chat", json={"input": "Hi"}, headers={"x-stop": "1"}).status_code == 418
    assert client.post("/chat", json={"input": "Hi", "stream": True}).text.endswith("data: [DONE]\n\n")
    assert seen == [200]


def _context() -> Any:
    context = get_context()
    assert context is not None
    return context
