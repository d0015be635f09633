"""Sessions and events of the control plane over HTTP: made, published, filtered, paged; over every store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

Json = dict[str, Any]


@pytest.fixture
def session(http: httpx2.Client) -> str:
    return str(http.post("/api/sessions", json={}).json()["session_id"])


def publish(http: httpx2.Client, session: str, event_type: str, **fields: Any) -> httpx2.Response:
    return http.post(f"/api/sessions/{session}/events", json={"event_type": event_type, **fields})


def page(http: httpx2.Client, session: str, **wanted: Any) -> tuple[list[int], int]:
    answer = http.get(f"/api/sessions/{session}/events", params=wanted)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return [event["sequence"] for event in told["events"]], told["total"]


def test_a_session_is_made_shown_listed_and_removed(http: httpx2.Client) -> None:
    body = {"name": "optional-session-name", "metadata": {"user_id": "user123", "project": "my-project"}}
    answer = http.post("/api/sessions", json=body)
    made = answer.json()
    assert answer.status_code == 201
    assert made["session_token"].startswith("st_")
    assert made == {
        **body,
        "session_id": made["session_id"],
        "status": "active",
        "user_id": "local",
        "message_count": 0,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
        "session_token": made["session_token"],
    }
    path = f"/api/sessions/{made['session_id']}"
    assert http.get(path).json() == {**made, "session_token": None}
    assert http.get("/api/sessions", params={"limit": 1}).json()["sessions"] == [{**made, "session_token": None}]
    assert http.get(f"/sessions/{made['session_id']}").json()["title"] == body["name"]
    http.patch(f"/sessions/{made['session_id']}", json={"archived": True}).raise_for_status()
    assert http.get(path).json()["status"] == "archived"
    assert http.delete(path).status_code == 204
    for answer in (http.get(path), http.delete(path), http.get(f"{path}/events"), publish(http, "nope", "T")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "SESSION_NOT_FOUND")


def test_the_same_request_again_makes_no_second_session_and_shows_no_second_token(http: httpx2.Client) -> None:
    first, again = (http.post("/api/sessions", json={}, headers={"Idempotency-Key": "one"}) for _ in range(2))
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == {**first.json(), "session_token": None}


def test_a_session_of_a_chat_is_the_control_planes_too(http: httpx2.Client) -> None:
    run_id = http.post("/chat", json={"input": "Hi", "agent_name": "busy", "session_id": "chatted"}).json()["run_id"]
    told = http.get("/api/sessions/chatted/events").json()
    assert [event["event_type"] for event in told["events"]] == [
        "run_started",
        "step",
        "tool_call",
        "tool_result",
        "tool_call",
        "tool_result",
        "step",
        "run_ended",
    ]
    assert {event["run_id"] for event in told["events"]} == {run_id}
    assert [event["sequence"] for event in told["events"]] == list(range(1, 9))
    called = told["events"][2]["data"]
    assert (called["tool_name"], called["arguments"]) == ("lookup", {"key": "täglich"})
    assert told["events"][-1]["data"]["usage"] == {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


def test_an_event_is_shown_as_it_was_published(http: httpx2.Client, session: str) -> None:
    body = {"data": {"status": "processing", "ü": [1, None]}, "metadata": {"source": "engine", "priority": "normal"}}
    answer = publish(http, session, "DummyEngineStatusUpdate", **body)
    event = answer.json()
    assert answer.status_code == 201
    assert event == {
        **body,
        "event_id": event["event_id"],
        "sequence": 1,
        "event_type": "DummyEngineStatusUpdate",
        "source": "client",
        "session_id": session,
        "run_id": None,
        "created_at": event["created_at"],
    }
    assert http.get(f"/api/sessions/{session}/events/{event['event_id']}").json() == event
    assert http.get(f"/api/sessions/{session}/events").json() == {"events": [event], "total": 1}


def test_pages_are_cut_by_type_place_and_time(http: httpx2.Client, session: str) -> None:
    times = [publish(http, session, "even" if index % 2 else "odd").json()["created_at"] for index in range(10)]
    assert page(http, session, limit=3) == ([1, 2, 3], 10)
    assert page(http, session, limit=3, offset=8) == ([9, 10], 10)
    assert page(http, session, after=7) == ([8, 9, 10], 3)
    assert page(http, session, event_type="even", limit=2, offset=1) == ([4, 6], 5)
    assert page(http, session, event_type="even", after=5) == ([6, 8, 10], 3)
    assert page(http, session, since=times[7]) == ([8, 9, 10], 3)
    assert page(http, session, until=times[2], event_type="odd") == ([1], 1)
    assert page(http, session, since=times[3].replace("Z", "+00:00"), until=times[5]) == ([4, 5], 2)
    assert page(http, session, event_type="unknown") == ([], 0)


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 201}, "limit"),
        ({"offset": -1}, "offset"),
        ({"offset": 2**60}, "offset"),
        ({"after": "x"}, "after"),
        ({"after": -1}, "after"),
        ({"since": "yesterday"}, "since"),
        ({"since": "1700000000"}, "since"),
        ({"until": "0.5"}, "until"),
        ({"until": "2026-01-01T00:00:00"}, "until"),
        ({"event_type": "x" * 129}, "event_type"),
    ],
)
def test_what_is_wrong_with_a_query_is_named(http: httpx2.Client, session: str, wanted: Json, param: str) -> None:
    answer = http.get(f"/api/sessions/{session}/events", params=wanted)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "VALIDATION_ERROR", param)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 422, "event_type"),
        ({"event_type": "a b"}, 422, "event_type"),
        ({"event_type": "T", "data": 3}, 422, "data"),
        ({"event_type": "T", "metadata": []}, 422, "metadata"),
        ({"event_type": "run_ended"}, 422, "event_type"),
        ({"event_type": "HandlerFailed"}, 422, "event_type"),
        ({"event_type": "T", "data": {"x": "y" * 300_000}}, 422, "data"),
        ({"event_type": "T", "data": {"x": "y" * 1_100_000}}, 413, None),
    ],
)
def test_what_is_wrong_with_an_event_is_named(
    http: httpx2.Client, session: str, body: Json, status: int, param: str | None
) -> None:
    answer = http.post(f"/api/sessions/{session}/events", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert page(http, session) == ([], 0)


def test_an_event_that_is_not_there_is_not_found(http: httpx2.Client, session: str) -> None:
    event_id = publish(http, session, "T").json()["event_id"]
    other = http.post("/api/sessions", json={}).json()["session_id"]
    publish(http, other, "T").raise_for_status()
    stem = event_id.rpartition("_")[0]
    for place, name in (
        (session, "x"),
        (session, f"{stem}_2"),
        (session, f"{stem}_0"),
        (session, f"{stem}_{'9' * 30}"),
        (session, f"{stem}_-1"),
        (session, f"{stem}_١"),
        (other, event_id),
    ):
        answer = http.get(f"/api/sessions/{place}/events/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "EVENT_NOT_FOUND"), name


def test_many_publishers_at_once_leave_no_gap_and_no_double(http: httpx2.Client, session: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda index: publish(http, session, f"T{index % 3}").json()["sequence"], range(200)))
    assert sorted(told) == list(range(1, 201))
    assert page(http, session, limit=200) == (list(range(1, 201)), 200)


def test_the_same_request_again_publishes_nothing(http: httpx2.Client, session: str) -> None:
    def post(_: int) -> httpx2.Response:
        body = {"event_type": "T", "data": {"a": 1}}
        return http.post(f"/api/sessions/{session}/events", json=body, headers={"Idempotency-Key": "e"})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, range(16)))
    assert {answer.text for answer in answers} == {answers[0].text}
    assert sum(answer.headers.get("idempotent-replayed") == "true" for answer in answers) == 15
    assert page(http, session) == ([1], 1)
