"""Errors: one body everywhere, and every answer named and timed."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest

from tests.support.inns import Json, frames, running_inn

FAULTS: dict[str, tuple[str, str, Json | None, dict[str, str], int]] = {
    "nowhere": ("GET", "/nothing/here", None, {}, 404),
    "no agent at the root": ("GET", "/nothing", None, {}, 404),
    "under v1": ("POST", "/v1/nothing", {}, {}, 404),
    "trailing slash": ("GET", "/agents/", None, {}, 404),
    "capitals": ("GET", "/Agents/x/y", None, {}, 404),
    "method": ("DELETE", "/chat", None, {}, 405),
    "agent": ("POST", "/chat", {"input": "Hi", "agent_name": "nobody"}, {}, 404),
    "session": ("GET", "/sessions/nothing", None, {}, 404),
    "run": ("GET", "/runs/nothing", None, {}, 404),
    "schema": ("POST", "/chat", {}, {}, 422),
    "schema, solved": ("POST", "/sessions", {"id": 5}, {}, 422),
    "query": ("GET", "/runs?limit=0", None, {}, 422),
    "openai schema": ("POST", "/v1/chat/completions", {}, {}, 400),
    "failed": ("POST", "/chat", {"input": "Hi", "agent_name": "failing"}, {}, 500),
    "credentials": ("GET", "/agents", None, {"via": "x"}, 401),
    "origin": ("GET", "/agents", None, {"origin": "http://evil.example"}, 403),
    "host": ("GET", "/agents", None, {"host": "evil.example"}, 421),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_error_has_the_one_body(http: httpx2.Client, fault: str) -> None:
    method, path, body, headers, status = FAULTS[fault]
    answer = http.request(method, path, json=body, headers={**headers, "x-request-id": "my-id"})
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert set(told) == {"error", "detail", "timestamp", "request_id"}
    assert set(told["error"]) == {"code", "type", "message", "param", "details"}
    assert told["error"]["message"] == told["detail"] and told["detail"]
    assert re.fullmatch(r"[A-Z_]+", told["error"]["code"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["timestamp"])
    assert told["request_id"] == answer.headers["x-request-id"] == "my-id"
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(r"\d+\.\d\dms", answer.headers["x-response-time"])


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/chat", "POST"),
        ("PUT", "/sessions", "GET, POST"),
        ("PUT", "/sessions/x", "DELETE, GET, PATCH"),
        ("POST", "/runs/x", "GET"),
        ("GET", "/runs/x/cancel", "POST"),
        ("DELETE", "/echo", "GET, POST"),
        ("TRACE", "/live", "GET"),
    ],
)
def test_wrong_method_is_told_the_right_ones(http: httpx2.Client, method: str, path: str, allowed: str) -> None:
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == allowed
    assert allowed in answer.json()["detail"]


def test_request_id_is_made_where_none_was_sent_or_it_is_harmful(http: httpx2.Client) -> None:
    made = [http.get("/live").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1] and all(made)
    for sent in ("x" * 129, "größe", "a\tb"):
        given = http.get("/live", headers={b"x-request-id": sent.encode("latin-1")}).headers["x-request-id"]
        assert given and given != sent


@pytest.mark.parametrize("path", ["/live", "/agents", "/sessions", "/runs", "/v1/models", "/echo", "/openapi.json"])
def test_every_answer_is_named_and_timed(http: httpx2.Client, path: str) -> None:
    answer = http.get(path, headers={"x-request-id": "my-id"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "my-id"
    assert answer.headers["x-response-time"].endswith("ms")


def test_failure_of_an_agent_shows_nothing_of_its_exception(http: httpx2.Client) -> None:
    answer = http.post("/chat", json={"input": "Hi", "agent_name": "failing"})
    assert answer.json()["error"]["code"] == "AGENT_FAILED"
    assert answer.headers["x-should-retry"] == "false"
    stream = http.post("/chat/stream", json={"input": "Hi", "agent_name": "failing"})
    run = http.get(f"/runs/{stream.headers['x-run-id']}")
    for told in (answer.text, stream.text, run.text):
        assert "open-sesame" not in told and "RuntimeError" not in told and "Traceback" not in told
    assert run.json()["error"] == {
        "code": "AGENT_FAILED",
        "message": "The agent failed. The server's log has the reason.",
    }


def test_failure_in_a_stream_is_an_error_then_done_then_the_marker(http: httpx2.Client) -> None:
    answer = http.post("/chat/stream", json={"input": "Hi", "agent_name": "breaking"})
    assert answer.status_code == 200
    found = [frame.data for frame in frames(answer.text)]
    assert [one["type"] for one in found] == ["run", "text", "text", "error", "done"]
    assert found[3]["error"]["code"] == "AGENT_FAILED"
    assert (found[4]["status"], found[4]["output"]) == ("failed", "So far so good.")


def test_debug_shows_the_exception(tmp_path: Path) -> None:
    with running_inn(tmp_path, debug=True) as talkative:
        answer = httpx2.post(f"{talkative.url}/chat", json={"input": "Hi", "agent_name": "failing"})
    assert "the secret is open-sesame" in answer.json()["detail"]
