"""`WS /api/sessions/{session_id}/events/stream`: a session's log from any place on, then live.

On our own server many events are written in one piece, on plain uvicorn one by one; clients see no difference.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.connection import Connection

from innkeeper import ServerBase
from innkeeper.cli.frames import FramesProtocol
from innkeeper.config import load_settings
from innkeeper.http.control import streams
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.inns import Inn, Json, declare
from tests.support.servers import serve_app
from tests.support.sizes import within
from tests.support.tokens import a_token

ANN_BOB_AND_A_READER = (("ann", "user"), ("bob", "user"), ("ann", "read"))


@pytest.fixture(scope="module", params=["frames-sqlite", "messages-postgres"])
def inn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    data_dir = tmp_path_factory.mktemp("data")
    if request.param == "frames-sqlite":
        with _served({"data_dir": data_dir}, ws=FramesProtocol, ws_per_message_deflate=False) as inn:
            yield inn
        return
    server = request.getfixturevalue("postgres_url")
    with (
        a_copy_of(a_migrated_database(server), server) as url,
        _served({"data_dir": data_dir, "database_url": url}) as inn,
    ):
        yield inn


@contextmanager
def _served(settings: Json, **options: Any) -> Iterator[Inn]:
    inn = Inn(ServerBase(settings=load_settings(settings)))
    declare(inn.app, inn)
    with serve_app(inn.app, **options) as inn.url:
        yield inn


@pytest.fixture
def session_id(http: httpx2.Client) -> str:
    made: str = http.post("/api/sessions", json={}).json()["session_id"]
    return made


def publish(http: httpx2.Client, session_id: str, count: int, **data: Any) -> list[Json]:
    """Publish so many events; what was answered."""
    answers = []
    for index in range(count):
        body = {"event_type": "Note", "data": {"index": index, **data}, "metadata": {"origin": "tëst"}}
        answer = http.post(f"/api/sessions/{session_id}/events", json=body)
        assert answer.status_code == 201, answer.text
        answers.append(answer.json())
    return answers


def stream(inn: Inn, session_id: str, query: str = "", **options: Any) -> ClientConnection:
    return connect(f"ws{inn.url[4:]}/api/sessions/{session_id}/events/stream{query}", **options)


def receive(connection: Connection, count: int) -> list[Json]:
    return [json.loads(connection.recv(timeout=10)) for _ in range(count)]


def refusal(inn: Inn, session_id: str, query: str = "", **options: Any) -> tuple[int, Json]:
    """The status and the error with which the handshake is answered."""
    with pytest.raises(InvalidStatus) as refused:
        stream(inn, session_id, query, **options).close()
    answer = refused.value.response
    return answer.status_code, json.loads(answer.body)["error"]


def ending(connection: Connection) -> tuple[int | None, str | None]:
    """How the server closes, whatever it sends before."""
    with pytest.raises(ConnectionClosed):
        while True:
            connection.recv(timeout=10)
    return connection.close_code, connection.close_reason


def test_stream_tells_what_has_been_and_then_what_comes_as_it_is_listed(
    inn: Inn, http: httpx2.Client, session_id: str
) -> None:
    before = publish(http, session_id, 3)
    with stream(inn, session_id) as connection:
        assert receive(connection, 3) == before
        after = publish(http, session_id, 3, text='line\nline, "quoted" \\ ütf-8 \U0001f3e8 \x00')
        assert receive(connection, 3) == after
    listed = http.get(f"/api/sessions/{session_id}/events").json()
    assert (listed["events"], listed["total"]) == (before + after, 6)
    assert [event["sequence"] for event in listed["events"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("after", [0, 1, 49, 50, 52])
def test_stream_goes_on_after_any_event(inn: Inn, http: httpx2.Client, session_id: str, after: int) -> None:
    publish(http, session_id, 50)
    with stream(inn, session_id, f"?after={after}") as connection:
        publish(http, session_id, 5)
        assert [event["sequence"] for event in receive(connection, 55 - after)] == list(range(after + 1, 56))


def test_stream_tells_what_runs_do(inn: Inn, http: httpx2.Client, session_id: str) -> None:
    with stream(inn, session_id) as connection:
        run = http.post("/chat", json={"agent_name": "busy", "input": "Go", "session_id": session_id}).json()
        told: list[Json] = []
        while not told or told[-1]["event_type"] != "run_ended":
            told += receive(connection, 1)
    kinds = [event["event_type"] for event in told]
    assert (kinds[0], kinds.count("tool_call"), kinds.count("tool_result")) == ("run_started", 2, 2)
    assert {(event["run_id"], event["source"]) for event in told} == {(run["run_id"], "server")}


def test_event_of_any_size_arrives(inn: Inn, http: httpx2.Client, session_id: str) -> None:
    sizes = [0, 100, 1000, 65_000, 66_000, 200_000]
    with stream(inn, session_id) as connection:
        for size in sizes:
            publish(http, session_id, 1, text="x" * size)
        assert [len(event["data"]["text"]) for event in receive(connection, len(sizes))] == sizes


@pytest.mark.parametrize(
    "after",
    ["-1", "1.5", "1e3", "", "%201", "%2B1", "0x1", "NaN", "nine", "%D9%A3", "%00", "9" * 400, str(2**53 + 1), "1;2"],
)
def test_cursor_that_is_none_is_refused_and_the_remedy_told(inn: Inn, session_id: str, after: str) -> None:
    status, error = refusal(inn, session_id, f"?after={after}")
    assert (status, error["code"], error["param"]) == (422, "VALIDATION_ERROR", "after")
    assert "leave it out to begin at the beginning" in error["message"]


@pytest.mark.parametrize("name", ["nowhere", "%00", "..%5c", "x" * 5000, "%C3%BC"])
def test_session_that_does_not_exist_is_not_found(inn: Inn, name: str) -> None:
    status, error = refusal(inn, name)
    assert (status, error["code"], error["param"]) == (404, "SESSION_NOT_FOUND", "session_id")


def test_strangers_and_foreign_pages_are_turned_away_before_the_session_is_looked_for(inn: Inn) -> None:
    assert refusal(inn, "nowhere", additional_headers={"x-forwarded-for": "10.0.0.1"})[0] == 401
    assert refusal(inn, "nowhere", origin="http://evil.example")[0] == 403


def test_session_token_opens_the_stream_of_its_session_only(inn: Inn, http: httpx2.Client) -> None:
    mine, other = http.post("/api/sessions", json={}).json(), http.post("/api/sessions", json={}).json()
    through_proxy = {"x-forwarded-for": "10.0.0.1", "x-session-token": mine["session_token"]}
    with stream(inn, mine["session_id"], additional_headers=through_proxy) as connection:
        publish(http, mine["session_id"], 1)
        assert receive(connection, 1)[0]["sequence"] == 1
    assert refusal(inn, other["session_id"], additional_headers=through_proxy)[0] == 403
    offered: Any = ["innkeeper", f"innkeeper.token.{mine['session_token']}"]
    with stream(inn, mine["session_id"], subprotocols=offered) as connection:
        assert (connection.subprotocol, receive(connection, 1)[0]["sequence"]) == ("innkeeper", 1)


def test_session_of_somebody_else_is_not_found(inn: Inn, http: httpx2.Client, session_id: str) -> None:
    settings = inn.app.kernel.settings
    ann, bob, reader = (a_token(settings, user, role).text for user, role in ANN_BOB_AND_A_READER)
    mine = {"session_id": "shared-name"}
    for token in (ann, bob):
        made = http.post("/api/sessions", json=mine, headers={"authorization": f"Bearer {token}"})
        assert made.status_code == 201, made.text
    body = {"event_type": "Note", "data": {"of": "ann"}}
    http.post("/api/sessions/shared-name/events", json=body, headers={"authorization": f"Bearer {ann}"})
    with stream(inn, "shared-name", additional_headers={"authorization": f"Bearer {reader}"}) as connection:
        assert receive(connection, 1)[0]["data"] == {"of": "ann"}, "whoever may read may watch"
    of_bob = stream(inn, "shared-name", additional_headers={"authorization": f"Bearer {bob}"})
    with of_bob, pytest.raises(TimeoutError):
        of_bob.recv(timeout=0.3)
    status, error = refusal(inn, session_id, additional_headers={"authorization": f"Bearer {ann}"})
    assert (status, error["code"]) == (404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize("path", ["/api/sessions/{}", "/sessions/{}"])
def test_stream_ends_with_its_session(inn: Inn, http: httpx2.Client, session_id: str, path: str) -> None:
    publish(http, session_id, 1)
    with stream(inn, session_id) as connection:
        assert receive(connection, 1)
        began = time.monotonic()
        assert http.delete(path.format(session_id)).status_code == 204
        assert ending(connection) == (4404, "The session was deleted.")
        assert time.monotonic() - began < within(0.5, 5)


def test_what_a_client_says_is_not_heeded(inn: Inn, http: httpx2.Client, session_id: str) -> None:
    with stream(inn, session_id) as connection:
        for said in ("{not json", b"\x00\xff", "", "x" * 100_000):
            connection.send(said)
        publish(http, session_id, 1)
        assert receive(connection, 1)[0]["sequence"] == 1


def test_client_that_talks_without_end_is_read_slowly_and_held_up_alone(
    inn: Inn, http: httpx2.Client, session_id: str
) -> None:
    with stream(inn, session_id) as connection:
        began = time.monotonic()
        for _ in range(60):
            connection.socket.sendall(b"\x81\xff" + (1_000_000).to_bytes(8, "big") + bytes(4) + b"x" * 1_000_000)
        assert time.monotonic() - began > 1.5
        began = time.monotonic()
        publish(http, session_id, 1)
        assert time.monotonic() - began < within(0.5, 5)
        connection.socket.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("inn", ["frames-sqlite"], indirect=True)
def test_client_that_never_reads_is_let_go_and_can_come_back_where_it_was(
    inn: Inn, http: httpx2.Client, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STALLED_SECONDS", 1.5)
    with closing(socket.socket()) as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = inn.url[7:].split(":")
        idle.connect((host, int(port)))
        idle.sendall(
            f"GET /api/sessions/{session_id}/events/stream HTTP/1.1\r\nhost: {host}\r\n".encode()
            + b"upgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
        )
        with stream(inn, session_id) as connection, ThreadPoolExecutor(1) as pool:
            reading = pool.submit(receive, connection, 60)
            publish(http, session_id, 60, text="x" * 200_000)
            assert [event["sequence"] for event in reading.result()] == list(range(1, 61)), "others go on"
        deadline = time.monotonic() + 30
        while (watching := _subscribers(inn)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not watching, "the one that never reads is gone"
        seen = _sequences(_rest(idle))
    assert seen == list(range(1, len(seen) + 1)) and len(seen) < 60
    with stream(inn, session_id, f"?after={len(seen)}", max_size=None) as connection:
        assert [event["sequence"] for event in receive(connection, 60 - len(seen))] == list(range(len(seen) + 1, 61))


def _subscribers(inn: Inn) -> int:
    services = inn.app.kernel.house.services
    assert services is not None, "the server is running"
    return services.session_tails.subscribers


def _rest(connection: socket.socket) -> bytes:
    connection.settimeout(20)
    data = bytearray()
    while part := connection.recv(1 << 20):
        data += part
    return bytes(data).partition(b"\r\n\r\n")[2]


def _sequences(data: bytes) -> list[int]:
    """The events in the whole text frames at the beginning of `data`; a frame of these is always a large one."""
    found, at = [], 0
    while data[at : at + 2] == b"\x81\x7f":
        begin, length = at + 10, int.from_bytes(data[at + 2 : at + 10], "big")
        if begin + length > len(data):
            break
        found.append(json.loads(data[begin : begin + length])["sequence"])
        at = begin + length
    return found


def test_subscribers_that_come_and_go_leave_nothing_behind(inn: Inn, http: httpx2.Client, session_id: str) -> None:
    for _ in range(20):
        connection = stream(inn, session_id)
        connection.socket.shutdown(socket.SHUT_RDWR)
        connection.close()
    with stream(inn, session_id) as last:
        publish(http, session_id, 1)
        receive(last, 1)
    deadline = time.monotonic() + 30
    while _subscribers(inn) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _subscribers(inn) == 0


def test_path_below_another_prefix_is_no_stream(inn: Inn, session_id: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws{inn.url[4:]}/api/sessions/{session_id}/events/{uuid4().hex}").close()
    assert refused.value.response.status_code == 403
