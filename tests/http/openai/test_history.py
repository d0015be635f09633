"""The history of sessions as the SDK's clients ask for it, those in the field too."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.http.platform.conftest import headers
from tests.support.inns import Inn

Json = dict[str, Any]
PATHS = ("/v1/chat/sessions", "/atoms/chat/sessions")


@pytest.fixture
def user() -> str:
    """An end user of whom nothing is stored yet."""
    return str(uuid4())


def complete(http: httpx2.Client, *said: str, model: str = "echo", **fields: Any) -> Json:
    """A completion of the messages, asked for with everything that the SDK sends by default."""
    messages = [{"role": "user", "content": text} for text in said]
    sent = {"model": model, "messages": messages, "temperature": 0.7, "max_tokens": 4000, "top_p": 1.0, "stream": False}
    answer = http.post("/v1/chat/completions", json={**sent, **fields})
    assert answer.status_code == 200, answer.text
    told: Json = answer.json()
    return told


def listed(http: httpx2.Client, path: str = PATHS[0], **asked: Any) -> Json:
    answer = http.get(path, params=asked)
    assert answer.status_code == 200, answer.text
    told: Json = answer.json()
    return told


@pytest.mark.parametrize("path", PATHS)
def test_a_session_is_listed_with_everything_that_clients_in_the_field_require(
    http: httpx2.Client, user: str, path: str
) -> None:
    answer = complete(http, "What is it?", model="busy", user=user)
    page = listed(http, path, user_id=user)
    (session,) = page.pop("sessions")
    assert page == {"total": 1, "page": 1, "page_size": 20, "has_more": False}
    times = [session.pop(name) for name in ("created_at", "updated_at", "last_message_at")]
    assert all(time.endswith("Z") for time in times)
    assert session == {
        "id": answer["system_fingerprint"],
        "user_id": user,
        "organization_id": "local",
        "title": None,
        "model": "busy",
        "agent_type": "innkeeper",
        "message_count": session["message_count"],
        "tokens_in": 10,
        "tokens_out": 5,
        "tokens_total": 15,
        "metadata": {},
        "archived": False,
    }


@pytest.mark.parametrize("path", PATHS)
def test_a_transcript_has_what_was_said_in_order_and_no_calls_of_the_agents_own(
    http: httpx2.Client, user: str, path: str
) -> None:
    answer = complete(http, "What is it?", model="busy", user=user)
    session_id = answer["system_fingerprint"]
    detail = http.get(f"{path}/{session_id}", params={"user_id": user}).json()
    assert (detail["session"]["id"], detail["session"]["tokens_out"]) == (session_id, 5)
    question, reply = detail["messages"]
    assert len({question.pop("id"), reply.pop("id")}) == 2
    assert question.pop("created_at") < reply.pop("created_at")
    shared = {"session_id": session_id, "updated_at": None, "metadata": question["metadata"]}
    assert question == {"message_index": 0, "role": "user", "content": "What is it?", "tokens": None, **shared}
    assert reply == {"message_index": 1, "role": "assistant", "content": "It is 42.", "tokens": 5, **shared}
    assert set(reply["metadata"]) == {"run_id"}


def test_pages_are_complete_newest_first_with_the_true_total(http: httpx2.Client, user: str) -> None:
    made = [complete(http, str(number), user=user)["system_fingerprint"] for number in range(5)]
    seen: list[str] = []
    for page, size, has_more in ((1, 2, True), (2, 2, True), (3, 1, False), (4, 0, False), (2**31, 0, False)):
        told = listed(http, user_id=user, page=page, page_size=2)
        assert (told["total"], told["page"], told["page_size"]) == (5, page, 2)
        assert (len(told["sessions"]), told["has_more"]) == (size, has_more)
        seen += [session["id"] for session in told["sessions"]]
    assert seen == made[::-1]


def test_content_that_is_no_text_is_told_beside_the_text(http: httpx2.Client, user: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "Look"}, image]
    sent = {"model": "silent", "user": user, "messages": [{"role": "user", "content": parts}]}
    session_id = http.post("/v1/chat/completions", json=sent).json()["system_fingerprint"]
    first = http.get(f"{PATHS[0]}/{session_id}", params={"user_id": user}).json()["messages"][0]
    assert (first["content"], first["metadata"]["content"]) == ("Look", parts)


def test_another_users_sessions_are_refused_and_an_admin_sees_them(inn: Inn) -> None:
    name = f"ann-{uuid4().hex[:8]}"
    with httpx2.Client(base_url=inn.url, timeout=20) as http:
        ann, bob, root = (headers(inn, *who) for who in ((name,), ("bob",), ("root", "admin")))
        session_id = http.post("/chat", json={"input": "mine"}, headers=ann).json()["session_id"]
        for path in PATHS:
            asked = {"user_id": name}
            for key in (ann, root):
                told = http.get(path, params=asked, headers=key).json()
                assert [session["id"] for session in told["sessions"]] == [session_id]
                assert http.get(f"{path}/{session_id}", params=asked, headers=key).status_code == 200
            assert http.get(path, headers=ann).json()["total"] == 1
            for place in (path, f"{path}/{session_id}"):
                refused = http.get(place, params=asked, headers=bob)
                assert (refused.status_code, refused.json()["error"]["param"]) == (403, "user_id")
            missing = http.get(f"{path}/{session_id}", headers=bob)
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"page": 0}, "page"),
        ({"page": "x"}, "page"),
        ({"page": 2**40}, "page"),
        ({"page_size": 0}, "page_size"),
        ({"page_size": 201}, "page_size"),
        ({"user_id": "u" * 257}, "user_id"),
    ],
)
def test_a_page_that_cannot_be_is_a_bad_request_that_names_its_field(
    http: httpx2.Client, path: str, asked: Json, name: str
) -> None:
    answer = http.get(path, params=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


def test_everything_that_the_sdk_sends_inside_metadata_works(inn: Inn, http: httpx2.Client, user: str) -> None:
    session_id = f"session-{uuid4().hex}"
    extras = {
        "session_id": session_id,
        "user_id": user,
        "organization_id": "org_1",
        "workflow": "default",
        "variables": {"name": "Ann"},
        "allowed_tools": ["lookup"],
        "setting_sources": [],
        "mcp_servers": {},
        "mine": "kept",
    }
    answers = [complete(http, text, metadata=extras, user=user) for text in ("one", "two")]
    assert [answer["system_fingerprint"] for answer in answers] == [session_id, session_id]
    assert [choice["index"] for answer in answers for choice in answer["choices"]] == [0, 0]
    assert all(answer["id"] for answer in answers)
    assert [message["content"] for message in inn.seen[1]] == ["one", "You said: one ", "two"]
    (session,) = listed(http, user_id=user)["sessions"]
    assert (session["id"], session["user_id"], session["organization_id"]) == (session_id, user, "local")
    (run, _) = http.get("/runs", params={"session_id": session_id}).json()["runs"]
    assert run["metadata"] == {"mine": "kept"}


@pytest.mark.parametrize("extra", [{"setting_sources": ["project"]}, {"mcp_servers": {"a": {"command": "x"}}}])
def test_what_would_open_doors_is_refused_inside_metadata_too(http: httpx2.Client, extra: Json) -> None:
    sent = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}], "metadata": extra}
    refused = http.post("/v1/chat/completions", json=sent)
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, next(iter(extra)))


@pytest.mark.parametrize("name", ["%00", "%ed%a0%80", "%ff", "%25", "'"])
def test_a_user_of_any_name_may_be_asked_for(http: httpx2.Client, name: str) -> None:
    answer = http.get(f"{PATHS[0]}?user_id={name}")
    assert (answer.status_code, answer.json()["total"]) == (200, 0)
    assert http.get(f"{PATHS[0]}/{name}?user_id={name}").status_code == 404
