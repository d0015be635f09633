"""Things that go wrong: each is a clear error, the server goes on, and history holds exactly what was said."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from innkeeper import Agent, ServerBase, create_app, register_agent
from innkeeper.apps.registration import default_agents
from innkeeper.config import load_settings
from innkeeper.core.errors import DuplicateAgent, Invalid, ReservedName, SetupError, StoreInUse
from innkeeper.storage.sqlite import journals
from tests.support.inns import Inn, ended, frames, history, running_inn
from tests.support.servers import serve_app
from tests.support.services import free_port


def test_agent_that_raises_before_it_says_anything_leaves_the_question_only(http: httpx2.Client) -> None:
    for session_id, path in (("f1", "/chat"), ("f2", "/chat/stream")):
        answer = http.post(path, json={"input": "Hi", "agent_name": "failing", "session_id": session_id})
        assert history(http, session_id) == [("user", "Hi")]
        run = ended(http, answer.headers["x-run-id"])
        assert (run["status"], run["output"]) == ("failed", "")
        assert http.post("/chat", json={"input": "Again", "session_id": session_id}).status_code == 200


def test_agent_that_raises_in_the_middle_leaves_what_it_had_said(http: httpx2.Client, inn: Inn) -> None:
    for session_id, path in (("b1", "/chat"), ("b2", "/chat/stream")):
        answer = http.post(path, json={"input": "Hi", "agent_name": "breaking", "session_id": session_id})
        assert history(http, session_id) == [("user", "Hi"), ("assistant", "So far so good.")]
        run = ended(http, answer.headers["x-run-id"])
        assert (run["status"], run["output"]) == ("failed", "So far so good.")
        http.post("/chat", json={"input": "Go on", "session_id": session_id})
        assert [message["content"] for message in inn.seen[-1]] == ["Hi", "So far so good.", "Go on"]


def test_agent_that_yields_nothing_answers_nothing(http: httpx2.Client) -> None:
    answer = http.post("/chat", json={"input": "Hi", "agent_name": "silent", "session_id": "silence"})
    assert (answer.status_code, answer.json()["output"]) == (200, "")
    stream = http.post("/chat/stream", json={"input": "Hi", "agent_name": "silent", "session_id": "silence"})
    assert [frame.data["type"] for frame in frames(stream.text)] == ["run", "done"]
    assert history(http, "silence") == [("user", "Hi"), ("user", "Hi")]


@pytest.mark.parametrize("error", [SystemExit, RecursionError, asyncio.CancelledError, StopIteration])
def test_agent_that_raises_something_unusual_fails_alone(tmp_path: Path, error: type[BaseException]) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))

    @app.agent("odd")
    async def odd(messages: list[object]) -> str:
        raise error

    app.agent("fine")(lambda messages: "Hi")
    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=10) as http:
        assert http.post("/chat", json={"input": "Hi", "agent_name": "odd"}).status_code >= 500
        assert http.post("/chat", json={"input": "Hi", "agent_name": "fine"}).json()["output"] == "Hi"


def test_unreachable_model_fails_the_run_and_the_server_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{free_port()}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-open-sesame")
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
    app.agent("model")(Agent("model", model="openai:gpt-test"))
    app.agent("fine")(lambda messages: "Hi")
    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=60) as http:
        answer = http.post("/chat", json={"input": "Hi", "agent_name": "model", "session_id": "unreachable"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "AGENT_FAILED")
        assert "open-sesame" not in answer.text
        assert history(http, "unreachable") == [("user", "Hi")]
        stream = http.post("/chat/stream", json={"input": "Hi", "agent_name": "model"})
        assert [frame.data["type"] for frame in frames(stream.text)][-2:] == ["error", "done"]
        assert http.post("/chat", json={"input": "Hi", "agent_name": "fine"}).json()["output"] == "Hi"


@contextmanager
def locked(data_dir: Path) -> Iterator[Callable[[], None]]:
    """Another program holds the database for writing, until it lets go."""
    with closing(sqlite3.connect(data_dir / "innkeeper.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield lambda: other.rollback()


def test_database_that_is_locked_for_a_moment_delays_a_turn(tmp_path: Path) -> None:
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        with locked(tmp_path) as release, ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            waiting = pool.submit(lambda: http.post("/chat", json={"input": "Hi", "session_id": "late"}))
            assert http.get("/sessions").status_code == 200, "reading goes on"
            time.sleep(1)
            assert not waiting.done()
            release()
            assert waiting.result(10).status_code == 200
            assert time.monotonic() - began >= 1
        assert history(http, "late") == [("user", "Hi"), ("assistant", "You said: Hi ")]


def test_database_that_stays_locked_is_unavailable_until_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "LOCK_PATIENCE", 0.2)
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        http.post("/chat", json={"input": "Before", "session_id": "locked"})
        with locked(tmp_path) as release:
            for method, path, body in (
                ("POST", "/chat", {"input": "Hi", "session_id": "locked"}),
                ("POST", "/chat/stream", {"input": "Hi", "session_id": "locked"}),
                ("POST", "/sessions", {}),
                ("POST", "/sessions/locked/messages", {"role": "user", "content": "Hi"}),
                ("PATCH", "/sessions/locked", {"title": "Hi"}),
                ("DELETE", "/sessions/locked", None),
                ("POST", "/v1/chat/completions", {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}),
            ):
                answer = http.request(method, path, json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORAGE_UNAVAILABLE"), path
                assert "locked by another program" in answer.json()["detail"]
                assert answer.headers["x-should-retry"] == "true", "nothing has happened yet"
            assert http.get("/live").status_code == 200
            release()
        assert [content for _, content in history(http, "locked")] == ["Before", "You said: Before "]
        assert http.post("/chat", json={"input": "After", "session_id": "locked"}).status_code == 200


def test_lock_in_mid_stream_is_told_and_the_run_ends_once_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "LOCK_PATIENCE", 0.2)
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        performance = inn.conduct("locked out")
        performance.say("Before. ")
        body = {"agent_name": "conducted", "input": "locked out", "session_id": "mid"}
        with http.stream("POST", "/chat/stream", json=body) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if "Before" in line)
            with locked(tmp_path) as release:
                performance.say("Meanwhile. ")
                rest = [line for line in lines if line]
                release()
        assert rest[-1] == "data: [DONE]" and "STORAGE_UNAVAILABLE" in rest[-2]
        assert not any("Meanwhile" in line for line in rest), "nothing is told before it is on disk"
        performance.say("After.")
        performance.end()
        run = ended(http, answer.headers["x-run-id"])
        assert (run["status"], run["output"]) == ("completed", "Before. Meanwhile. After.")
        replay = frames(http.get(f"/runs/{run['id']}/events").content)
        assert [frame.seq for frame in replay] == list(range(1, len(replay) + 1))
        assert history(http, "mid")[-1] == ("assistant", "Before. Meanwhile. After.")


def test_caller_that_waits_while_the_lock_holds_must_not_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "LOCK_PATIENCE", 0.2)
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        performance = inn.conduct("locked while waiting")
        body = {"agent_name": "conducted", "input": "locked while waiting", "session_id": "waits"}
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lambda: http.post("/chat", json=body))
            assert performance.began.wait(10)
            with locked(tmp_path) as release:
                performance.say("Hello.")
                answer = waiting.result(10)
                release()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORAGE_UNAVAILABLE")
        assert answer.headers["x-should-retry"] == "false", "the agent is at work already"
        performance.end()
        (run,) = http.get("/runs", params={"session_id": "waits"}).json()["runs"]
        assert ended(http, run["id"])["output"] == "Hello."


def _start(data_dir: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": data_dir}))
    app.agent("echo")(lambda messages: "Hi")
    with serve_app(app) as url:
        assert httpx2.post(f"{url}/chat", json={"input": "Hi"}).status_code == 200


def test_data_folder_that_is_missing_is_made_private(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    _start(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "innkeeper.db").stat().st_mode & 0o777 == 0o600


def _failure(data_dir: Path) -> str:
    with pytest.raises(SetupError) as failure:
        app = ServerBase(settings=load_settings({"data_dir": data_dir}))
        asyncio.run(app.kernel.start())
    return failure.value.message


def test_data_folder_that_is_a_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = _failure(tmp_path / "file")
    assert str(tmp_path / "file") in told and "--data-dir" in told


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_data_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "sealed").mkdir(mode=0o500)
    told = _failure(tmp_path / "sealed")
    assert str(tmp_path / "sealed") in told and "--data-dir" in told


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "innkeeper.db").write_bytes(b"this is no database" * 100)
    assert str(tmp_path / "innkeeper.db") in _failure(tmp_path)


def test_second_server_on_a_data_folder_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with running_inn(tmp_path):
        app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
        with pytest.raises(StoreInUse, match=str(os.getpid())):
            asyncio.run(app.kernel.start())


@pytest.fixture
def registry() -> Iterator[None]:
    default_agents.clear()
    yield
    default_agents.clear()


@pytest.mark.usefixtures("registry")
def test_two_agents_of_one_name_are_an_error_that_names_it() -> None:
    register_agent("twin", lambda messages: "one")
    with pytest.raises(DuplicateAgent, match=re.escape("Two agents are named 'twin'. Give each")):
        register_agent("twin", lambda messages: "two")


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", ["chat", "sessions", "v1", "docs", "runs", "health", "ws"])
def test_reserved_name_is_an_error_that_names_the_clash(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReservedName, match=f"/{name}"):
        register_agent(name, lambda messages: "Hi")
        create_app(settings=load_settings({"data_dir": tmp_path}))


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", ["", "a b", "a/b", "../etc", "x" * 129, "-dash", "é", None, 7])
def test_name_that_cannot_stand_in_a_url_is_an_error(name: str) -> None:
    with pytest.raises(Invalid, match="agent name"):
        register_agent(name, lambda messages: "Hi")
