"""The end of a request: its hooks run once, after the last byte, whichever way it came; what they track is booked."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import websockets
from fastapi import HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask

from innkeeper import ServerBase, get_context
from innkeeper.testing import MockAgent, create_test_client
from tests.support.apps import completion, ledger, streamed
from tests.support.servers import serve_app

PATIENCE = 10


class Stage:
    """An app with agents that end in every way, and a record of what was finalized."""

    def __init__(self) -> None:
        self.app = ServerBase()
        self.ends: queue.Queue[Any] = queue.Queue()
        self.began = threading.Event()
        self.app.agent("echo")(MockAgent(chunks=["Hel", "lo"]))
        self.app.agent("broken")(MockAgent(error="no"))
        self.app.agent("endless")(self.endless)
        self.app.agent.finalize_request(self.note)

    async def endless(self, messages: Any) -> AsyncIterator[str]:
        yield "first"
        self.began.set()
        await asyncio.Event().wait()

    def note(self, request: Any, response: Any) -> None:
        context = get_context()
        assert context is not None
        context.track_usage(3, "finalize")
        self.ends.put(response)

    def the_only_end(self) -> Any:
        """What the one call was given, once it has come. A second one would be seen when the server has stopped."""
        return self.ends.get(timeout=PATIENCE)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@contextmanager
def raw(url: str, path: str, body: Any) -> Iterator[socket.socket]:
    """A request on a bare socket."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    with closing(socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), PATIENCE)) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + data)
        yield connection


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received:
        part = connection.recv(65536)
        assert part, f"the connection ended after {received!r}"
        received += part
    return received


@pytest.mark.parametrize("has_middleware", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        ("/echo/chat/completions", completion(), b'"finish_reason":"stop"}]'),
        ("/echo/chat/completions", completion(stream=True), b"\r\n0\r\n\r\n"),
        ("/chat/stream", {"input": "Hi"}, b"\r\n0\r\n\r\n"),
        ("/broken/chat/completions", completion(), b'"request_id":"'),
        ("/v1/chat/completions", completion(model="nobody"), b'"request_id":"'),
    ],
)
def test_finalize_hooks_run_after_the_client_has_the_last_byte(
    path: str, body: Any, end: bytes, has_middleware: bool
) -> None:
    app, everything_arrived, order = ServerBase(), threading.Event(), []
    app.agent("echo")(MockAgent(chunks=["Hel", "lo"]))
    app.agent("broken")(MockAgent(error="no"))

    @app.agent.finalize_request
    def wait_for_the_client(request: Any, response: Any) -> None:
        order.append("last byte" if everything_arrived.wait(PATIENCE) else "hook")
        order.append("hook")

    if has_middleware:

        @app.middleware("http")
        async def pass_on(request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            return response

    with serve_app(app) as url, raw(url, path, body) as connection:
        read_until(connection, end)
        everything_arrived.set()
    assert order == ["last byte", "hook"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("agent", ["echo", "broken", "nobody"])
def test_each_request_is_finalized_once_with_its_response(stage: Stage, agent: str, stream: bool) -> None:
    client = create_test_client(stage.app)
    answer = client.post(f"/{agent}/chat/completions", json=completion(stream=stream))
    response = stage.ends.get_nowait()
    assert stage.ends.empty()
    assert response.status_code == answer.status_code
    assert hasattr(response, "original_response") is (stream and agent != "nobody")


def test_a_request_that_a_hook_rejects_is_finalized_with_the_rejection(stage: Stage) -> None:
    @stage.app.agent.before_request
    async def reject(request: Any) -> None:
        raise HTTPException(403, "no")

    create_test_client(stage.app).post("/chat", json={"input": "Hi"})
    assert stage.ends.get_nowait().status_code == 403
    assert stage.ends.empty()


def test_a_body_that_is_no_request_is_not_finalized(stage: Stage) -> None:
    assert create_test_client(stage.app).post("/chat", json={}).status_code == 422
    assert stage.ends.empty()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_client_leaves_is_finalized_once(stage: Stage, stream: bool, tmp_path: Path) -> None:
    with serve_app(stage.app) as url:
        body = {"input": "Hi", "agent_name": "endless", "stream": stream, "on_disconnect": "cancel"}
        with raw(url, "/chat", body):
            assert stage.began.wait(PATIENCE)
        response = stage.the_only_end()
    assert (response is not None) is stream
    assert stage.ends.empty()
    assert ledger(tmp_path / "data") == [("3", "finalize", {})]


def test_a_request_whose_run_is_cancelled_is_finalized_once(stage: Stage, tmp_path: Path) -> None:
    answers: list[httpx2.Response] = []
    with serve_app(stage.app) as url, httpx2.Client(base_url=url, timeout=PATIENCE) as client:
        asked = threading.Thread(
            target=lambda: answers.append(client.post("/endless/chat/completions", json=completion()))
        )
        asked.start()
        assert stage.began.wait(PATIENCE)
        (run,) = client.get("/runs").json()["runs"]
        client.post(f"/runs/{run['id']}/cancel")
        asked.join(PATIENCE)
        assert stage.the_only_end().status_code == answers[0].status_code == 409
    assert stage.ends.empty()
    assert ledger(tmp_path / "data") == [("3", "finalize", {})]


def test_a_request_that_the_servers_stop_cuts_off_is_finalized_once(stage: Stage, tmp_path: Path) -> None:
    with ExitStack() as left_open, serve_app(stage.app, timeout_graceful_shutdown=1) as url:
        request = raw(url, "/endless/chat/completions", completion(stream=True, grace=0))
        read_until(left_open.enter_context(request), b"first")
    stage.ends.get_nowait()
    assert stage.ends.empty()
    assert ledger(tmp_path / "data") == [("3", "finalize", {})]


async def test_each_turn_on_a_web_socket_is_finalized_once_also_when_its_client_leaves(
    stage: Stage, tmp_path: Path
) -> None:
    with serve_app(stage.app) as url:
        async with websockets.connect(f"{url.replace('http', 'ws')}/ws/chat") as connection:
            await connection.send(json.dumps({"input": "Hi"}))
            while json.loads(await connection.recv())["type"] != "done":
                pass
            assert await asyncio.to_thread(stage.the_only_end) is None
            await connection.send(json.dumps({"input": "Hi", "agent_name": "endless", "on_disconnect": "cancel"}))
            assert await asyncio.to_thread(stage.began.wait, PATIENCE)
        assert await asyncio.to_thread(stage.the_only_end) is None
    assert stage.ends.empty()
    assert ledger(tmp_path / "data") == [("3", "finalize", {})] * 2


def test_credits_tracked_before_in_and_after_the_run_are_booked_once(tmp_path: Path) -> None:
    app = ServerBase()

    def track(reason: str) -> None:
        context = get_context()
        assert context is not None
        context.track_usage(1.5, reason)

    @app.agent("teller")
    def agent(messages: Any) -> str:
        track("agent")
        return "done"

    app.agent.before_request(lambda request: track("before"))
    app.agent.finalize_request(lambda request, response: track("after"))
    with serve_app(app) as url:
        for stream in (False, True):
            httpx2.post(f"{url}/teller/chat/completions", json=completion(stream=stream))
    booked = ledger(tmp_path / "data")
    assert [(credits, reason) for credits, reason, _ in booked] == [
        ("1.5", "before"),
        ("1.5", "agent"),
        ("1.5", "after"),
    ] * 2


def test_a_hook_that_fails_hinders_neither_the_others_nor_the_server(stage: Stage) -> None:
    @stage.app.agent.finalize_request
    async def careless(request: Any, response: Any) -> None:
        raise RuntimeError("boom")

    @stage.app.agent.finalize_request
    async def late(request: Any, response: Any) -> None:
        stage.ends.put("late")

    client = create_test_client(stage.app)
    assert client.post("/echo/chat/completions", json=completion()).status_code == 200
    stage.ends.get_nowait()
    assert stage.ends.get_nowait() == "late"
    assert client.post("/echo/chat/completions", json=completion()).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("has_hook", [False, True])
def test_the_background_task_of_an_agents_response_runs_at_the_end(stream: bool, has_hook: bool) -> None:
    app, order = ServerBase(), []

    @app.agent("teller")
    async def agent(messages: Any) -> Any:
        async def body() -> AsyncIterator[str]:
            yield "text"
            order.append("stream")

        return StreamingResponse(body(), background=BackgroundTask(lambda: order.append("background")))

    if has_hook:
        app.agent.finalize_request(lambda request, response: order.append("hook"))
    answer = create_test_client(app).post("/teller/chat/completions", json=completion(stream=stream))
    assert (streamed(answer.text) if stream else answer.json()["choices"][0]["message"]["content"]) == "text"
    assert order == ["stream", *(["hook"] if has_hook else []), "background"]


def test_the_background_task_waits_for_a_stream_that_its_client_has_left() -> None:
    app, began, order = ServerBase(), threading.Event(), []

    @app.agent("teller")
    async def teller(messages: Any) -> Any:
        async def body() -> AsyncIterator[str]:
            try:
                yield "text"
                began.set()
                await asyncio.Event().wait()
            finally:
                order.append("stream")

        return StreamingResponse(body(), background=BackgroundTask(lambda: order.append("background")))

    with serve_app(app) as url, raw(url, "/teller/chat/completions", completion(stream=True, grace=0.2)):
        assert began.wait(PATIENCE)
    assert order == ["stream", "background"]


def test_the_hook_of_a_stream_finds_what_the_agent_returned() -> None:
    app, made, seen = ServerBase(), [], []

    @app.agent("teller")
    async def agent(messages: Any) -> Any:
        async def body() -> AsyncIterator[str]:
            yield "text"

        made.append(StreamingResponse(body()))
        return made[0]

    app.agent.finalize_request(lambda request, response: seen.append(response.original_response))
    create_test_client(app).post("/teller/chat/completions", json=completion(stream=True))
    assert seen == made
