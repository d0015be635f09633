"""`Idempotency-Key`: a request that is made again makes nothing again, and gets the first answer, byte for byte."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from typing import Any

import httpx2
import pytest

from tests.support.inns import Inn, Json, ended, frames, history

_numbers = count(1)


def a_key() -> dict[str, str]:
    """The header with a key that no other request bears."""
    return {"idempotency-key": f"key {next(_numbers)}"}


HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
RUNS: Mapping[str, tuple[str, Json]] = {
    "chat": ("/chat", {"input": "Hello"}),
    "chat, streamed": ("/chat", {"input": "Hello", "stream": True}),
    "chat stream": ("/chat/stream", {"input": "Hello", "agent_name": "busy"}),
    "background": ("/chat", {"input": "Hello", "background": True}),
    "completion": ("/v1/chat/completions", {**HELLO, "model": "busy"}),
    "completion of an agent": ("/echo/chat/completions", HELLO),
    "chunks": ("/v1/chat/completions", {**HELLO, "stream": True, "stream_options": {"include_usage": True}}),
    "failure": ("/chat", {"input": "Hello", "agent_name": "breaking"}),
    "failure in a stream": ("/chat/stream", {"input": "Hello", "agent_name": "breaking"}),
    "failure of a completion": ("/v1/chat/completions", {**HELLO, "model": "failing"}),
}
REQUESTS: Mapping[str, tuple[str, Json]] = {
    **RUNS,
    "injection": ("/inject", {"message": "Hush", "agent_name": "silent"}),
    "session": ("/sessions", {"title": "Hello", "metadata": {"n": 1.5}}),
    "messages": ("/sessions/kept/messages", {"messages": [{"role": "user", "content": "Hello"}] * 3}),
}


@pytest.fixture(params=REQUESTS)
def asked(request: pytest.FixtureRequest, http: httpx2.Client) -> tuple[str, Json]:
    """A request that makes something: where it goes, and its body."""
    http.post("/sessions", json={"id": "kept"})
    return REQUESTS[request.param]


@pytest.fixture
def database(inn: Inn) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(inn.database, timeout=10)) as connection:
        yield connection


def everything(database: sqlite3.Connection) -> list[int]:
    """How many of everything there is."""
    tables = ("runs", "sessions", "messages", "injections", "idempotency_keys")
    return [database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]


def told(answer: httpx2.Response) -> Any:
    """What an answer says, but for what names the request itself."""
    if answer.headers["content-type"] != "application/json" or "error" not in answer.json():
        return answer.status_code, answer.content
    body = answer.json()
    return answer.status_code, body["error"], body["detail"], answer.headers.get("x-should-retry")


def test_the_first_answer_is_given_again_and_nothing_is_made_again(
    http: httpx2.Client, database: sqlite3.Connection, asked: tuple[str, Json]
) -> None:
    (path, body), key = asked, a_key()
    first = http.post(path, json=body, headers=key)
    if run_id := first.headers.get("x-run-id"):
        ended(http, run_id)
    before = everything(database)
    again = http.post(path, json=body, headers=key)
    assert told(again) == told(first)
    assert first.status_code != 422
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    for name in ("x-run-id", "x-session-id", "x-should-retry", "retry-after"):
        assert first.headers.get(name) == again.headers.get(name)
    assert everything(database) == before


def test_another_request_with_the_same_key_is_refused(http: httpx2.Client, asked: tuple[str, Json]) -> None:
    (path, body), key = asked, a_key()
    http.post(path, json=body, headers=key)
    for other in (
        http.post(path, json={**body, "metadata": {"other": "1"}}, headers=key),
        http.post(path, content=httpx2.Request("POST", http.base_url, json=body).content + b" ", headers=_json(key)),
        http.post(f"{path}?another=query", json=body, headers=key),
        http.post("/sessions", json={"title": "Another"}, headers=key),
        http.get("/stream", params={"input": "Another"}, headers=key),
    ):
        assert (other.status_code, other.json()["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")
        assert other.json()["error"]["param"] == "Idempotency-Key"


def _json(headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "content-type": "application/json"}


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "tab\tin it"], ids=repr)
def test_key_that_cannot_be_one_is_refused(http: httpx2.Client, asked: tuple[str, Json], key: str) -> None:
    path, body = asked
    refused = http.post(path, json=body, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert (refused.status_code, refused.json()["error"]["code"]) == (
        400 if path.startswith("/v1") else 422,
        "VALIDATION_ERROR",
    )
    assert "255" in refused.json()["error"]["message"]


def test_two_keys_are_refused_and_the_longest_one_is_taken(http: httpx2.Client, asked: tuple[str, Json]) -> None:
    path, body = asked
    twice = http.post(path, json=body, headers=[("Idempotency-Key", "one"), ("Idempotency-Key", "two")])
    assert twice.json()["error"]["param"] == "Idempotency-Key"
    longest = {"idempotency-key": f"{next(_numbers)}".rjust(255, "k")}
    first = http.post(path, json=body, headers=longest)
    assert "Idempotency-Key" not in first.text
    assert http.post(path, json=body, headers=longest).headers["idempotent-replayed"] == "true"


def test_session_is_told_as_it_was_made_whatever_became_of_it(http: httpx2.Client) -> None:
    key, body = a_key(), {"id": "changing", "title": "First"}
    first = http.post("/sessions", json=body, headers=key)
    http.patch("/sessions/changing", json={"title": "Second", "archived": True})
    http.post("/chat", json={"input": "Hello", "session_id": "changing"})
    again = http.post("/sessions", json=body, headers=key)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert http.get("/sessions/changing").json()["title"] == "Second"
    http.delete("/sessions/changing")
    assert http.post("/sessions", json=body, headers=key).content == first.content
    assert http.get("/sessions/changing").status_code == 404


def test_messages_are_told_as_they_were_added_whatever_was_said_since(http: httpx2.Client) -> None:
    http.post("/sessions", json={"id": "growing"})
    key = a_key()
    said = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant", "content": "Hello"}
    body = {"messages": said}
    first = http.post("/sessions/growing/messages", json=body, headers=key)
    http.post("/chat", json={"input": "More", "session_id": "growing"})
    transcript = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No"}]
    edited = {"messages": [*transcript, {"role": "user", "content": "Edited"}], "session_id": "growing"}
    http.post("/v1/chat/completions", json=edited)
    assert "Hello" not in [content for _, content in history(http, "growing")], "it is on another branch"
    again = http.post("/sessions/growing/messages", json=body, headers=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert [one["position"] for one in again.json()["messages"]] == [1, 2]


def test_what_is_refused_leaves_its_key_free(http: httpx2.Client, inn: Inn) -> None:
    key = a_key()
    unknown = http.post("/chat", json={"input": "Hi", "agent_name": "nobody"}, headers=key)
    invalid = http.post("/chat", json={"input": " "}, headers=key)
    nowhere = http.post("/sessions/nowhere/messages", json={"role": "user", "content": "Hi"}, headers=key)
    assert [one.status_code for one in (unknown, invalid, nowhere)] == [404, 422, 404]
    performance, body = inn.conduct("blocks"), {"agent_name": "conducted", "input": "blocks", "session_id": "blocked"}
    rejecting = {"input": "Hi", "session_id": "blocked", "when_busy": "reject"}
    with http.stream("POST", "/chat/stream", json=body) as first:
        assert performance.began.wait(10)
        assert http.post("/chat", json=rejecting, headers=key).status_code == 409
        performance.end()
        first.read()
    http.post("/sessions", json={"id": "taken"})
    assert http.post("/sessions", json={"id": "taken"}, headers=key).status_code == 409
    assert http.post("/chat", json=rejecting, headers=key).status_code == 200


@pytest.mark.parametrize("path", ["/chat", "/chat/stream", "/v1/chat/completions", "/conducted/chat/completions"])
@pytest.mark.parametrize("streams", [False, True])
def test_the_same_request_while_its_run_goes_on_attaches_to_it(
    http: httpx2.Client, inn: Inn, path: str, streams: bool
) -> None:
    prompt, key = f"attach {path} {streams}", a_key()
    native = {"input": prompt, "agent_name": "conducted"}
    openai = {"messages": [{"role": "user", "content": prompt}], "model": "conducted"}
    body = {**(openai if "completions" in path else native), "stream": streams}
    performance = inn.conduct(prompt)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(http.post, path, json=body, headers=key) for _ in range(2)]
        assert performance.began.wait(10)
        performance.say("One. ", "Two. ")
        asked += [pool.submit(http.post, path, json=body, headers=key) for _ in range(4)]
        while inn.app.kernel.house.services.runs._executions.all()[0].readers < 6:  # type: ignore[union-attr]
            pass
        performance.say("Three.")
        performance.end()
        answers = [one.result(20) for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 5
    assert "Three." in answers[0].text


def test_leaving_a_repeated_request_does_not_cancel_what_the_first_one_waits_for(http: httpx2.Client, inn: Inn) -> None:
    performance, key = inn.conduct("kept alive"), a_key()
    body = {"agent_name": "conducted", "input": "kept alive", "on_disconnect": "cancel"}
    with http.stream("POST", "/chat/stream", json=body, headers=key) as first:
        assert performance.began.wait(10)
        with http.stream("POST", "/chat/stream", json=body, headers=key) as second:
            assert second.headers["x-run-id"] == first.headers["x-run-id"]
        performance.end()
        assert frames(first.read())[-1].data["status"] == "completed"


def test_a_request_whose_answer_was_not_to_be_kept_is_not_answered_twice(http: httpx2.Client, inn: Inn) -> None:
    key, body = a_key(), {**HELLO, "store": False}
    assert http.post("/v1/chat/completions", json=body, headers=key).status_code == 200
    again = http.post("/v1/chat/completions", json=body, headers=key)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "RUN_CONFLICT")
    assert "store: false" in again.json()["error"]["message"]
    assert again.headers["x-should-retry"] == "false"
    assert len(inn.seen) == 1


def test_a_request_whose_session_has_been_deleted_is_told_that_its_run_is_gone(http: httpx2.Client, inn: Inn) -> None:
    key, body = a_key(), {"input": "Hello", "session_id": "short-lived"}
    http.post("/chat", json=body, headers=key)
    http.delete("/sessions/short-lived")
    again = http.post("/chat", json=body, headers=key)
    assert (again.status_code, again.json()["error"]["code"]) == (404, "RUN_NOT_FOUND")
    assert len(inn.seen) == 1


def test_a_key_is_free_again_after_a_day(http: httpx2.Client, database: sqlite3.Connection) -> None:
    key = a_key()
    first = http.post("/chat", json={"input": "Hello"}, headers=key)
    day = 24 * 60 * 60 * 1_000_000
    with database:
        database.execute("UPDATE idempotency_keys SET created_at = created_at - ?", [day])
    again = http.post("/chat", json={"input": "Something else"}, headers=key)
    assert again.status_code == 200
    assert again.json()["run_id"] != first.json()["run_id"]
