"""Test clients: `create_test_client`, and Starlette's own on an app of ours."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from innkeeper import Server, ServerBase, attach, create_app, load_settings, register_agent
from innkeeper.core.errors import SetupError, StoreInUse
from innkeeper.testing import MockAgent, create_test_client
from tests.support.apps import completion, content, streamed
from tests.support.servers import clean_environment


def answering(kind: str) -> FastAPI:
    """An app of each kind, with one agent that counts the messages it is given."""

    def count(messages: Any) -> str:
        return str(len(messages))

    if kind == "create_app":
        register_agent("count", count)
        return create_app()
    if kind == "attach":
        register_agent("count", count)
        app = FastAPI()
        attach(app)
        return app
    app = Server() if kind == "Server" else ServerBase()
    app.agent("count")(count)
    return app


def say(client: TestClient, **fields: Any) -> str:
    answer = client.post("/chat", json={"input": "Hi", "session_id": "s", **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["output"])


@pytest.mark.parametrize("kind", ["create_app", "attach", "Server", "ServerBase"])
def test_a_session_lasts_from_one_request_to_the_next(kind: str, tmp_path: Path) -> None:
    client = create_test_client(answering(kind))
    assert [say(client) for _ in range(3)] == ["1", "3", "5"]
    assert len(client.get("/sessions/s").json()["messages"]) == 6
    assert not (tmp_path / "data").exists()


def test_a_client_in_a_with_block_starts_and_stops_the_app() -> None:
    with create_test_client(answering("ServerBase")) as client:
        assert [say(client), say(client)] == ["1", "3"]
        thread = _loop_threads()
    assert _loop_threads() < thread
    with pytest.raises(RuntimeError, match="closed"):
        client.get("/live")


def test_each_client_has_a_folder_of_its_own_and_takes_it_along() -> None:
    app = answering("ServerBase")
    first = create_test_client(app)
    assert [say(first), say(first)] == ["1", "3"]
    folder: Path = app.kernel.settings.data_dir  # type: ignore[attr-defined]
    assert (folder / "innkeeper.db").exists()
    second = create_test_client(app)
    assert say(second) == "1"
    assert not folder.exists()
    with pytest.raises(RuntimeError, match="another client"):
        say(first)
    second.close()


def test_a_client_that_nobody_refers_to_lets_go_of_everything() -> None:
    before = set(threading.enumerate())
    app = answering("ServerBase")
    client = create_test_client(app)
    say(client)
    folder: Path = app.kernel.settings.data_dir  # type: ignore[attr-defined]
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    del app
    assert _threads_since(before) == []
    assert not folder.exists()


def test_a_client_that_is_never_closed_lets_its_process_end(tmp_path: Path) -> None:
    source = """
from innkeeper import Server
from innkeeper.testing import MockAgent, create_test_client
app = Server(agents=[MockAgent("mock")])
client = create_test_client(app)
print(client.post("/chat", json={"input": "Hi"}).json()["output"], app.kernel.settings.data_dir)
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", source],
        env=clean_environment(tmp_path / "data"),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    said, _, folder = done.stdout.strip().rpartition(" ")
    assert (said, done.stderr) == ("This is a mock response.", "")
    assert not Path(folder).exists()


def test_state_is_kept_where_it_is_asked_to_be(tmp_path: Path) -> None:
    with create_test_client(answering("ServerBase"), data_dir=tmp_path / "kept") as client:
        say(client)
    with create_test_client(answering("ServerBase"), data_dir=tmp_path / "kept") as client:
        assert say(client) == "3"


def test_a_stream_and_a_web_socket_work_through_the_client() -> None:
    client = create_test_client(Server(agents=[MockAgent("mock", chunks=["a", "b"])]))
    assert streamed(client.post("/mock/chat/completions", json=completion(stream=True)).text) == "ab"
    with client.stream("POST", "/chat/stream", json={"input": "Hi"}) as response:
        assert [line for line in response.iter_lines() if line][-1] == "data: [DONE]"
    with client.websocket_connect("/ws/chat") as connection:
        connection.send_json({"input": "Hi"})
        while (event := connection.receive_json())["type"] != "done":
            pass
    assert event["output"] == "ab"


def test_an_app_without_innkeeper_is_told_so() -> None:
    with pytest.raises(SetupError, match="attach"):
        create_test_client(FastAPI())


def test_the_database_of_the_settings_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'real.db'}")
    say(create_test_client(answering("ServerBase")))
    assert not (tmp_path / "real.db").exists()


def test_starlettes_client_works_without_being_entered(tmp_path: Path) -> None:
    client = TestClient(answering("ServerBase"))
    assert [say(client) for _ in range(3)] == ["1", "3", "5"]
    chunks = client.post("/count/chat/completions", json=completion(stream=True))
    assert streamed(chunks.text) == "1"
    assert content(client.post("/v1/chat/completions", json=completion(model="count"))) == "1"
    assert (tmp_path / "data" / "innkeeper.db").exists()


def test_starlettes_client_works_entered_and_then_not() -> None:
    app = answering("create_app")
    with TestClient(app) as client:
        assert [say(client), say(client)] == ["1", "3"]
    client = TestClient(app)
    assert say(client) == "5"
    with TestClient(app) as client:
        assert say(client) == "7"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_starlettes_client_works_without_being_entered_on_postgres(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("asyncpg")
    from innkeeper.storage.migrations import upgrade

    upgrade(postgres_database)
    monkeypatch.setenv("DATABASE_URL", postgres_database)
    client = TestClient(answering("ServerBase"))
    assert [say(client) for _ in range(3)] == ["1", "3", "5"]
    del client
    gc.collect()  # asyncpg warns of connections whose event loop has gone: here, not in a test that follows


def test_an_app_that_nobody_refers_to_gives_its_folder_free(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    assert say(TestClient(answering("ServerBase"))) == "1"
    assert say(TestClient(answering("ServerBase"))) == "3"
    assert _threads_since(before) == []


def test_two_apps_of_one_process_on_one_folder_are_told_what_to_do(tmp_path: Path) -> None:
    with TestClient(answering("ServerBase")) as client:
        assert say(client) == "1"
        with pytest.raises(StoreInUse) as refusal, TestClient(answering("ServerBase")):
            pass
        assert say(client) == "3"
    told = refusal.value.message
    assert f"pid {__import__('os').getpid()}" in told
    assert "this very process" in told
    assert "create_test_client" in told
    other = ServerBase(settings=load_settings({"data_dir": tmp_path / "other"}))
    other.agent("count")(lambda messages: str(len(messages)))
    with TestClient(answering("ServerBase")) as one, TestClient(other) as two:
        assert (say(one), say(two)) == ("5", "1")


def test_an_app_that_is_served_refuses_a_second_event_loop() -> None:
    app = answering("ServerBase")
    with TestClient(app) as client:
        assert say(client) == "1"
        answer = TestClient(app, raise_server_exceptions=False).post("/chat", json={"input": "Hi"})
        assert answer.status_code == 500
        assert "loop" not in answer.text
        assert say(client) == "3"


def _loop_threads() -> int:
    return sum("portal" in thread.name for thread in threading.enumerate())


def _threads_since(before: set[threading.Thread]) -> list[threading.Thread]:
    """Those that do not end by themselves, now that nothing refers to what they worked for."""
    for _ in range(40):
        gc.collect()
        begun = [thread for thread in threading.enumerate() if thread not in before]
        if not begun:
            break
        begun[0].join(0.5)
    return begun
