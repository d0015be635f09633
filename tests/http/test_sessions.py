"""`/sessions`: conversations as resources."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.inns import Inn, Json, ended, history, running_inn

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def make(http: httpx2.Client, **fields: Any) -> Json:
    answer = http.post("/sessions", json=fields)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def test_session_is_made_as_it_was_asked_for(http: httpx2.Client) -> None:
    made = make(http, id="asked", title="Größe", metadata={"a": [1, None]}, agent_name="echo")
    assert made == {
        "id": "asked",
        "agent_name": "echo",
        "user_id": "local",
        "title": "Größe",
        "metadata": {"a": [1, None]},
        "archived": False,
        "message_count": 0,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
        "last_message_at": None,
        "messages": [],
    }
    assert TIME.fullmatch(made["created_at"])
    assert http.get("/sessions/asked").json() == made


def test_session_needs_nothing_to_be_made(http: httpx2.Client) -> None:
    made = make(http)
    assert made["id"] and made["title"] is None and made["agent_name"] is None


def test_name_is_another_word_for_title(http: httpx2.Client) -> None:
    assert make(http, name="Called so")["title"] == "Called so"


def test_id_that_exists_is_a_conflict(http: httpx2.Client) -> None:
    make(http, id="twice")
    answer = http.post("/sessions", json={"id": "twice"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "RUN_CONFLICT")


def test_session_of_an_unknown_agent_is_not_made(http: httpx2.Client) -> None:
    assert http.post("/sessions", json={"id": "no", "agent_name": "nobody"}).status_code == 404
    assert http.get("/sessions/no").status_code == 404


def test_session_of_a_chat_shows_its_messages(http: httpx2.Client) -> None:
    run = http.post("/chat", json={"input": "Hi", "session_id": "shows", "agent_name": "busy"}).json()
    session = http.get("/sessions/shows").json()
    assert (session["agent_name"], session["message_count"]) == ("busy", len(session["messages"]))
    assert [message["role"] for message in session["messages"]] == [
        "user", "assistant", "tool", "assistant", "tool", "assistant",
    ]  # fmt: skip
    first, *_, last = session["messages"]
    assert (first["content"], first["run_id"], first["position"]) == ("Hi", run["run_id"], 1)
    assert (last["content"], last["position"]) == ("It is 42.", len(session["messages"]))
    assert session["last_message_at"] == last["created_at"]


def test_limit_shows_the_last_messages(http: httpx2.Client) -> None:
    for text in ("One", "Two"):
        http.post("/chat", json={"input": text, "session_id": "limited"})
    session = http.get("/sessions/limited", params={"limit": 2}).json()
    assert [message["content"] for message in session["messages"]] == ["Two", "You said: Two "]
    assert session["message_count"] == 4


def test_list_is_newest_first_in_pages_with_message_counts(tmp_path: Path) -> None:
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url) as http:
        for number in range(5):
            http.post("/chat", json={"input": "Hi", "session_id": f"page-{number}"})
        first = http.get("/sessions", params={"limit": 2}).json()
        assert [session["id"] for session in first["sessions"]] == ["page-4", "page-3"]
        assert [session["message_count"] for session in first["sessions"]] == [2, 2]
        assert first["has_more"] is True
        second = http.get("/sessions", params={"limit": 2, "after": "page-3"}).json()
        assert ([session["id"] for session in second["sessions"]], second["has_more"]) == (["page-2", "page-1"], True)
        third = http.get("/sessions", params={"limit": 2, "after": "page-1"}).json()
        assert ([session["id"] for session in third["sessions"]], third["has_more"]) == (["page-0"], False)
        assert http.get("/sessions", params={"after": "unknown"}).json() == {"sessions": [], "has_more": False}


def test_list_is_filtered(http: httpx2.Client) -> None:
    http.post("/chat", json={"input": "Hi", "session_id": "of-carol", "user_id": "carol", "agent_name": "silent"})
    http.patch("/sessions/of-carol", params={"user_id": "carol"}, json={"archived": True})

    def found(**filters: Any) -> list[str]:
        return [session["id"] for session in http.get("/sessions", params=filters).json()["sessions"]]

    assert found(user_id="carol") == found(agent_name="silent") == found(archived=True) == ["of-carol"]
    assert "of-carol" not in found(archived=False)
    assert found(user_id="carol", agent_name="echo") == []


@pytest.mark.parametrize("limit", ["0", "-1", "201", "1e2", "many", "", "99999999999999999999"])
@pytest.mark.parametrize("path", ["/sessions", "/sessions/bounds", "/sessions/bounds/messages", "/runs"])
def test_limit_out_of_bounds_is_refused(http: httpx2.Client, path: str, limit: str) -> None:
    answer = http.get(path, params={"limit": limit})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "limit")


def test_patch_changes_what_it_names(http: httpx2.Client) -> None:
    make(http, id="patched", title="Old", metadata={"a": 1})
    changed = http.patch("/sessions/patched", json={"title": "New"}).json()
    assert (changed["title"], changed["metadata"], changed["archived"]) == ("New", {"a": 1}, False)
    changed = http.patch("/sessions/patched", json={"metadata": {"b": 2}, "archived": True}).json()
    assert (changed["title"], changed["metadata"], changed["archived"]) == ("New", {"b": 2}, True)
    assert http.patch("/sessions/patched", json={"title": None}).json()["title"] is None
    assert http.patch("/sessions/patched", json={}).json()["archived"] is True
    assert changed["updated_at"] > changed["created_at"]


@pytest.mark.parametrize(
    "body", [{"owner": "eve"}, {"id": "other"}, {"title": 5}, {"archived": "maybe"}, {"metadata": []}]
)
def test_patch_of_anything_else_is_refused(http: httpx2.Client, body: Json) -> None:
    http.post("/chat", json={"input": "Hi", "session_id": "firm"})
    answer = http.patch("/sessions/firm", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, next(iter(body)))


def test_deleted_session_is_gone_with_its_messages_and_runs(http: httpx2.Client) -> None:
    run_id = http.post("/chat", json={"input": "Hi", "session_id": "gone"}).json()["run_id"]
    answer = http.delete("/sessions/gone")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("/sessions/gone", "/sessions/gone/messages", f"/runs/{run_id}", f"/runs/{run_id}/events"):
        assert http.get(path).status_code == 404, path
    assert http.delete("/sessions/gone").status_code == 404
    http.post("/chat", json={"input": "Again", "session_id": "gone"})
    assert history(http, "gone") == [("user", "Again"), ("assistant", "You said: Again ")]


def test_deleting_a_busy_session_cancels_what_runs_in_it(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("is deleted")
    body = {"agent_name": "conducted", "input": "is deleted", "session_id": "deleted-busy"}
    with http.stream("POST", "/chat/stream", json=body) as answer:
        assert performance.began.wait(10)
        assert http.delete("/sessions/deleted-busy").status_code == 204
        assert performance.cancelled.wait(10)
        assert answer.read().endswith(b"data: [DONE]\n\n")
    assert http.get("/sessions/deleted-busy").status_code == 404


def test_deleting_one_users_session_leaves_another_users_run_alone(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("stays")
    body = {"agent_name": "conducted", "input": "stays", "session_id": "common", "user_id": "bob"}
    http.post("/chat", json={"input": "Hi", "session_id": "common", "user_id": "ann"})
    with http.stream("POST", "/chat/stream", json=body) as answer:
        assert performance.began.wait(10)
        assert http.delete("/sessions/common", params={"user_id": "ann"}).status_code == 204
        performance.end()
        answer.read()
    assert ended(http, answer.headers["x-run-id"])["status"] == "completed"


def test_messages_are_appended_without_running_anything(http: httpx2.Client, inn: Inn) -> None:
    make(http, id="appended")
    answer = http.post("/sessions/appended/messages", json={"role": "user", "content": "One"})
    assert answer.status_code == 201
    assert [(message["content"], message["position"], message["run_id"]) for message in answer.json()["messages"]] == [
        ("One", 1, None)
    ]
    several = [
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": [{"type": "text", "text": "Three"}]},
    ]
    http.post("/sessions/appended/messages", json={"messages": several})
    assert inn.seen == []
    http.post("/chat", json={"input": "Four", "session_id": "appended"})
    assert [message["content"] for message in inn.seen[-1]] == ["One", "Two", "Three", "Four"]


def test_messages_are_paged_by_position(http: httpx2.Client) -> None:
    make(http, id="paged")
    several = [{"role": "user", "content": str(number)} for number in range(7)]
    http.post("/sessions/paged/messages", json={"messages": several})
    seen: list[str] = []
    after, has_more = 0, True
    while has_more:
        page = http.get("/sessions/paged/messages", params={"limit": 3, "after": after}).json()
        seen += [message["content"] for message in page["messages"]]
        after, has_more = page["messages"][-1]["position"], page["has_more"]
    assert seen == [str(number) for number in range(7)]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "role"),
        ({"role": "user"}, "content"),
        ({"role": "king", "content": "Hi"}, "role"),
        ({"role": "tool", "content": "Hi"}, "tool_call_id"),
        ({"role": "user", "content": [{"type": "spell"}]}, "content[0].type"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "fine"}, {"role": "user"}]}, "messages[1].content"),
    ],
)
def test_message_that_cannot_be_is_refused_and_nothing_is_stored(http: httpx2.Client, body: Json, param: str) -> None:
    http.post("/chat", json={"input": "Hi", "session_id": "strict"})
    before = history(http, "strict")
    answer = http.post("/sessions/strict/messages", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)
    assert history(http, "strict") == before


def test_concurrent_appends_lose_nothing(http: httpx2.Client) -> None:
    make(http, id="crowded")

    def append(number: int) -> int:
        body = {"messages": [{"role": "user", "content": f"{number}-{part}"} for part in range(3)]}
        return http.post("/sessions/crowded/messages", json=body).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(append, range(64))) == {201}
    messages = http.get("/sessions/crowded").json()["messages"]
    assert [message["position"] for message in messages] == list(range(1, 193))
    told = [message["content"] for message in messages]
    assert sorted(told) == sorted(f"{number}-{part}" for number in range(64) for part in range(3))
    for at in range(0, 192, 3):
        number = told[at].split("-")[0]
        assert told[at : at + 3] == [f"{number}-{part}" for part in range(3)], (
            "what is appended together stays together"
        )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/sessions/nothing"),
        ("PATCH", "/sessions/nothing"),
        ("DELETE", "/sessions/nothing"),
        ("GET", "/sessions/nothing/messages"),
        ("POST", "/sessions/nothing/messages"),
        ("GET", "/sessions/%00"),
        ("GET", "/sessions/%ff%fe"),
        ("GET", "/sessions/%2e%2e"),
        ("GET", "/sessions/' OR 1=1 --"),
    ],
)
def test_unknown_session_is_404(http: httpx2.Client, method: str, path: str) -> None:
    body = {"role": "user", "content": "Hi"} if method == "POST" else {} if method == "PATCH" else None
    answer = http.request(method, path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize("session_id", ["a/b", "..", "."])
def test_an_id_that_cannot_stand_in_a_path_is_refused_wherever_it_would_make_a_session(
    http: httpx2.Client, session_id: str
) -> None:
    said = {"messages": [{"role": "user", "content": "Hi"}], "model": "echo", "session_id": session_id}
    for path, body, status in (
        ("/chat", {"input": "Hi", "session_id": session_id}, 422),
        ("/sessions", {"id": session_id}, 422),
        ("/v1/chat/completions", said, 400),
    ):
        answer = http.post(path, json=body)
        assert answer.status_code == status, path
        assert answer.json()["error"]["param"] in ("session_id", "id")
