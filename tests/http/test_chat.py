"""`POST /chat`, not streamed: a turn, and the session that it becomes part of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from tests.support.inns import Inn, bare_app, history
from tests.support.servers import serve_app


def test_a_turn_is_answered_with_its_session_and_run(http: httpx2.Client) -> None:
    answer = http.post("/chat", json={"agent_name": "busy", "input": "What is it?"})
    told = answer.json()
    assert answer.status_code == 200
    assert told == {
        "output": "It is 42.",
        "agent_name": "busy",
        "session_id": told["session_id"],
        "run_id": told["run_id"],
        "trace_id": told["run_id"].removeprefix("run_"),
        "steps": 1,
        "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
    }
    assert (answer.headers["x-run-id"], answer.headers["x-session-id"]) == (told["run_id"], told["session_id"])
    assert history(http, told["session_id"])[-1] == ("assistant", "It is 42.")


def test_usage_is_null_where_the_agent_reports_none(http: httpx2.Client) -> None:
    assert http.post("/chat", json={"input": "Hi"}).json()["usage"] is None


def test_message_is_another_word_for_input(http: httpx2.Client) -> None:
    assert http.post("/chat", json={"message": "Hi"}).json()["output"] == "You said: Hi "


def test_session_that_is_named_gives_its_history_to_the_agent(http: httpx2.Client, inn: Inn) -> None:
    first = http.post("/chat", json={"input": "My name is Ann."}).json()
    http.post("/chat", json={"input": "Who am I?", "session_id": first["session_id"]})
    assert [(message["role"], message["content"]) for message in inn.seen[-1]] == [
        ("user", "My name is Ann."),
        ("assistant", "You said: My name is Ann. "),
        ("user", "Who am I?"),
    ]


def test_unknown_session_is_made_with_that_id(http: httpx2.Client) -> None:
    assert http.get("/sessions/made-by-chat").status_code == 404
    told = http.post("/chat", json={"input": "Hi", "session_id": "made-by-chat"}).json()
    assert told["session_id"] == "made-by-chat"
    assert history(http, "made-by-chat") == [("user", "Hi"), ("assistant", "You said: Hi ")]


def test_end_users_have_sessions_of_their_own_under_one_id(http: httpx2.Client) -> None:
    for user in ("ann", "bob"):
        body = {"input": f"I am {user}", "session_id": "shared-id", "user_id": user}
        assert http.post("/chat", json=body).json()["session_id"] == "shared-id"
    for user in ("ann", "bob"):
        session = http.get("/sessions/shared-id", params={"user_id": user}).json()
        assert session["user_id"] == user
        assert [message["content"] for message in session["messages"]] == [f"I am {user}", f"You said: I am {user} "]
    assert http.delete("/sessions/shared-id", params={"user_id": "ann"}).status_code == 204
    assert http.get("/sessions/shared-id", params={"user_id": "ann"}).status_code == 404
    assert http.get("/sessions/shared-id", params={"user_id": "bob"}).status_code == 200


def test_metadata_is_stored_as_given(http: httpx2.Client) -> None:
    metadata = {"ticket": 7, "tags": ["a", None], "nested": {"größe": 1.5}}
    run_id = http.post("/chat", json={"input": "Hi", "metadata": metadata}).json()["run_id"]
    assert http.get(f"/runs/{run_id}").json()["metadata"] == metadata


def test_parts_that_are_all_text_become_one_string(http: httpx2.Client, inn: Inn) -> None:
    parts = [{"type": "text", "text": "One"}, {"type": "input_text", "text": "two"}]
    http.post("/chat", json={"input": parts})
    assert inn.seen[-1][-1]["content"] == "One\ntwo"


def test_parts_of_other_kinds_reach_the_agent_as_parts(http: httpx2.Client, inn: Inn) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    http.post("/chat", json={"input": parts})
    assert inn.seen[-1][-1]["content"] == parts


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": " \n\t "}, "input"),
        ({"input": None}, "input"),
        ({"input": 7}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"text": "no type"}]}, "input"),
        ({"input": [{"type": "text"}]}, "input"),
        ({"input": [{"type": "text", "text": " "}]}, "input"),
        ({"input": [{"type": "image_url"}]}, "input"),
        ({"input": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}, "input"),
        ({"input": ["secret-1234"]}, "input"),
        ({"input": "Hi", "session_id": ""}, "session_id"),
        ({"input": "Hi", "session_id": 7}, "session_id"),
        ({"input": "Hi", "session_id": "x" * 257}, "session_id"),
        ({"input": "Hi", "session_id": "a\nb"}, "session_id"),
        ({"input": "Hi", "user_id": {"secret-1234": 1}}, "user_id"),
        ({"input": "Hi", "agent_name": ["secret-1234"]}, "agent_name"),
        ({"input": "Hi", "stream": "secret-1234"}, "stream"),
        ({"input": "Hi", "metadata": "secret-1234"}, "metadata"),
        ({"input": "Hi", "when_busy": "secret-1234"}, "when_busy"),
        ({"input": "Hi", "on_disconnect": "secret-1234"}, "on_disconnect"),
        ({"input": "Hi", "grace": -1}, "grace"),
    ],
)
def test_wrong_field_is_named_and_not_echoed(http: httpx2.Client, body: dict[str, Any], param: str) -> None:
    answer = http.post("/chat", json=body)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["code"] == "VALIDATION_ERROR"
    assert error["param"].startswith(param), error
    assert error["message"].startswith(param), error
    assert "secret-1234" not in answer.text
    assert "passwd" not in answer.text


@pytest.mark.parametrize("body", [[], "Hi", 7, True])
def test_body_that_is_no_object_is_refused(http: httpx2.Client, body: Any) -> None:
    answer = http.post("/chat", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "body")


def test_unknown_agent_is_named_with_the_remedy(http: httpx2.Client) -> None:
    answer = http.post("/chat", json={"input": "Hi", "agent_name": "nobody", "session_id": "never-made"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "AGENT_NOT_FOUND")
    assert "'nobody'" in error["message"] and "/agents" in error["message"]
    assert http.get("/sessions/never-made").status_code == 404, "a refused turn makes no session"


def test_without_agents_everything_is_503_before_404(tmp_path: Path) -> None:
    with serve_app(bare_app(tmp_path)) as url:
        for body in ({"input": "Hi"}, {"input": "Hi", "agent_name": "nobody"}):
            answer = httpx2.post(f"{url}/chat", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "NO_AGENTS")
            assert answer.headers["x-should-retry"] == "false"
            assert "register_agent" in answer.json()["detail"]


def test_unknown_name_is_404_before_the_missing_default_is_400(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
    app.agent("only", default=False)(lambda messages: "Hi")
    with serve_app(app) as url:
        unknown = httpx2.post(f"{url}/chat", json={"input": "Hi", "agent_name": "nobody"})
        unnamed = httpx2.post(f"{url}/chat", json={"input": "Hi"})
        named = httpx2.post(f"{url}/chat", json={"input": "Hi", "agent_name": "only"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "AGENT_NOT_FOUND")
    assert (unnamed.status_code, unnamed.json()["error"]["code"]) == (400, "NO_DEFAULT_AGENT")
    assert (named.status_code, named.json()["output"]) == (200, "Hi")


def test_default_may_be_named_later(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
    app.agent("first")(lambda messages: "first")
    app.agent("second", default=True)(lambda messages: "second")
    with serve_app(app) as url:
        assert httpx2.post(f"{url}/chat", json={"input": "Hi"}).json()["output"] == "second"
