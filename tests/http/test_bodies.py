"""Bodies that are too large, of another type, or no JSON: refused with the reason, whatever the route."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.inns import Inn, history

ROUTES = [
    "/chat",
    "/chat/stream",
    "/sessions",
    "/sessions/s/messages",
    "/v1/chat/completions",
    "/echo/chat/completions",
]
JSON = {"content-type": "application/json"}


@pytest.fixture(params=ROUTES)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def session(http: httpx2.Client) -> None:
    http.post("/chat", json={"input": "Hi", "session_id": "s"})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b"{'input': 'Hi'}", "not valid JSON"),
        (b'{"input": "Hi"} trailing', "not valid JSON"),
        (b'{"input": "a", "input": "b"}', "same name twice"),
        (b'{"metadata": {"a": {"b:": 1, "b:": 2}}}', "same name twice"),
        (b'{"metadata": {"a": 1, "\\u0061": 2}}', "same name twice"),
        (b'{"metadata": {"a": NaN}}', "not valid JSON"),
        (b'{"metadata": {"a": -Infinity}}', "not valid JSON"),
        (b'{"metadata": {"a": 1e999}}', "not valid JSON"),
        (b'{"metadata": {"a": ' + b"9" * 100_000 + b"}}", "not valid JSON"),
        (b'{"metadata": "\\ud800"}', "not valid JSON"),
        (b'{"metadata": "\xff"}', "not valid JSON"),
        (b'{"metadata": "\x00"}', "not valid JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
        (b'{"metadata": ' + b'{"a":' * 80 + b"1" + b"}" * 81, "nested"),
        (b"\x1f\x8b\x08\x00", "not valid JSON"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_what_is_no_strict_json_is_a_bad_request(http: httpx2.Client, path: str, body: bytes, told: str) -> None:
    before = history(http, "s")
    answer = http.post(path, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_ERROR"), answer.text
    assert told in answer.json()["detail"]
    assert len(answer.content) < 2000
    assert history(http, "s") == before


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_body_of_another_type_is_refused(http: httpx2.Client, path: str, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = http.post(path, content=b'{"input": "Hi"}', headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("encoding", ["gzip", "br", "x-unknown"])
def test_compressed_body_is_refused(http: httpx2.Client, path: str, encoding: str) -> None:
    answer = http.post(path, content=gzip.compress(b'{"input": "Hi"}'), headers={**JSON, "content-encoding": encoding})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_bodys_size_is_told_before_its_encoding(http: httpx2.Client) -> None:
    large = b"x" * (1024 * 1024 + 1)
    assert http.post("/sessions", content=large, headers={**JSON, "content-encoding": "gzip"}).status_code == 413


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"]
)
def test_json_is_json_however_it_is_written(http: httpx2.Client, content_type: str) -> None:
    answer = http.post("/chat", content=b'{"input": "Hi"}', headers={"content-type": content_type})
    assert answer.status_code == 200


def _pieces(size: int) -> Iterator[bytes]:
    yield b'{"input": "'
    for _ in range(size // 65536):
        yield b"x" * 65536


def test_body_that_is_too_large_is_refused_with_or_without_its_length(http: httpx2.Client, path: str) -> None:
    size = (2 if path.startswith("/sessions") else 11) * 1024 * 1024
    for content in (b"".join(_pieces(size)), _pieces(size)):
        answer = http.post(path, content=content, headers=JSON)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert http.get("/live").status_code == 200


def test_large_turn_within_the_bound_is_taken(http: httpx2.Client, inn: Inn) -> None:
    text = "x" * (9 * 1024 * 1024)
    answer = http.post("/chat", json={"input": text, "agent_name": "silent", "session_id": "large"})
    assert answer.status_code == 200, answer.text[:200]
    assert history(http, "large") == [("user", text)]


@pytest.mark.parametrize("value", [10**100, -(10**100), 2**63, 1e308, "\x00", "\ud7ff\ue000\uffff", {"": ""}])
def test_odd_values_are_kept_as_they_are(http: httpx2.Client, value: Any) -> None:
    run_id = http.post("/chat", json={"input": "Hi", "metadata": {"value": value}}).json()["run_id"]
    assert http.get(f"/runs/{run_id}").json()["metadata"] == {"value": value}
    made = http.post("/sessions", json={"metadata": {"value": value}})
    assert made.status_code == 201
    assert http.get(f"/sessions/{made.json()['id']}").json()["metadata"] == {"value": value}
