"""A server that leaves says so on every open stream, with the cursor from which to go on."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.support.inns import Frame, Json, frames
from tests.support.servers import ServerFactory, ServerProcess

AGENTS = """
import asyncio
from innkeeper import get_context, register_agent

async def counts(messages):
    '''Counts for ever at its first attempt, and to three at the next.'''
    number = 0
    while get_context().attempt == 1 or number < 3:
        number += 1
        yield f"{number} "
        await asyncio.sleep(0.02)

register_agent("counts", counts)
"""


@pytest.fixture
def server(innkeeper_server: ServerFactory) -> ServerProcess:
    innkeeper_server.write("inn.py", AGENTS)
    return innkeeper_server("inn.py", env={"INNKEEPER_DRAIN_SECONDS": "0.2"})


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=20, trust_env=False) as client:
        yield client


def farewell_of(body: bytes) -> tuple[list[Frame], Json]:
    """The events of a stream, and the frame without an id with which the server took its leave."""
    *events, last = frames(body)
    assert last.data["type"] == "shutdown" and last.seq is None
    return events, last.data


def stop(server: ServerProcess) -> None:
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=15) == 0


def test_streams_end_with_a_cursor_at_which_nothing_is_missing(server: ServerProcess, http: httpx2.Client) -> None:
    with ExitStack() as stack:
        native = stack.enter_context(http.stream("POST", "/chat/stream", json={"input": "Go"}))
        body = {"messages": [{"role": "user", "content": "Go"}], "stream": True}
        chunked = stack.enter_context(http.stream("POST", "/v1/chat/completions", json=body))
        run_id = native.headers["x-run-id"]
        follower = stack.enter_context(http.stream("GET", f"/runs/{run_id}/events"))
        stop(server)
        streams = [native.read(), follower.read()]
        chunks = chunked.read().decode()
    assert streams[0] == streams[1]
    events, farewell = farewell_of(streams[0])
    assert [frame.data["type"] for frame in events[-2:]] == ["error", "done"]
    assert events[-1].data["status"] == "interrupted"
    assert farewell == {"type": "shutdown", "run_id": run_id, "cursor": events[-1].seq}
    *_, failure, end, nothing = chunks.split("\n\n")
    assert json.loads(failure[6:])["error"]["code"] == "INTERRUPTED"
    assert (end, nothing) == ("data: [DONE]", "")
    assert chunks.count("[DONE]") == 1
    server.start()
    rest = http.get(f"/runs/{run_id}/events", params={"after": farewell["cursor"]}).content
    assert rest == b"data: [DONE]\n\n"


def test_followers_of_a_run_in_the_background_go_on_at_the_cursor(server: ServerProcess, http: httpx2.Client) -> None:
    run_id = http.post("/chat", json={"input": "Go", "background": True}).json()["run_id"]
    path = f"/runs/{run_id}/events"
    with http.stream("GET", path) as stream:
        chunks = stream.iter_raw()
        seen = next(chunks)
        while b'"3 "' not in seen:
            seen += next(chunks)
        stop(server)
        seen += b"".join(chunks)
    events, farewell = farewell_of(seen)
    assert "done" not in [frame.data["type"] for frame in events]
    assert farewell == {"type": "shutdown", "run_id": run_id, "cursor": events[-1].seq}
    server.start()
    rest = http.get(path, headers={"last-event-id": str(farewell["cursor"])}).content
    after = frames(rest)
    assert after[0].data == {"type": "resumed", "attempt": 2, "output_length": 0, "restart": True}
    assert (after[-1].data["status"], after[-1].data["output"]) == ("completed", "1 2 3 ")
    told = seen.partition(b'data: {"type":"shutdown"')[0] + rest
    assert http.get(path).content == told, "nothing is missing and nothing comes twice"
    assert http.get(f"/runs/{run_id}").json()["attempt"] == 2


def last_words(socket: Connection) -> tuple[list[Json], int | None]:
    """What a connection hears until it is closed, and with which code that is."""
    heard: list[Json] = []
    while True:
        try:
            heard.append(json.loads(socket.recv(timeout=15)))
        except ConnectionClosed as closed:
            return heard, closed.rcvd.code if closed.rcvd else None


def test_websockets_hear_it_too_in_a_turn_and_between_turns(server: ServerProcess) -> None:
    url = f"ws{server.url.removeprefix('http')}/ws/chat"
    with connect(url) as talking, connect(url) as silent:
        talking.send(json.dumps({"input": "Go"}))
        run_id = json.loads(talking.recv(timeout=10))["run_id"]
        server.send_signal(signal.SIGTERM)
        (*events, farewell), code = last_words(talking)
        assert (events[-1]["type"], events[-1]["status"]) == ("done", "interrupted")
        assert farewell == {"type": "shutdown", "run_id": run_id, "cursor": 1 + len(events)}
        assert code == 1012
        assert last_words(silent) == ([{"type": "shutdown", "run_id": None, "cursor": None}], 1012)
    assert server.wait(timeout=15) == 0
