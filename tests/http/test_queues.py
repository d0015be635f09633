"""A session runs one turn at a time: what a second one does meanwhile."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.support.inns import Inn, ended, frames, history


def _queued(http: httpx2.Client, session_id: str) -> int:
    runs = http.get("/runs", params={"session_id": session_id, "status": "queued"}).json()["runs"]
    return len(runs)


def _await_queue(http: httpx2.Client, session_id: str, length: int) -> None:
    while _queued(http, session_id) != length:
        time.sleep(0.005)


def test_turns_of_a_busy_session_run_one_after_the_other_as_they_came(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("first in line")
    with ThreadPoolExecutor(8) as pool:
        body = {"agent_name": "conducted", "input": "first in line", "session_id": "line"}
        turns = [pool.submit(lambda: http.post("/chat", json=body))]
        assert performance.began.wait(10)
        for number in range(4):
            asked = {"input": f"turn {number}", "session_id": "line"}
            turns.append(pool.submit(lambda asked=asked: http.post("/chat", json=asked)))  # type: ignore[misc]
            _await_queue(http, "line", number + 1)
        performance.say("One.")
        performance.end()
        assert [turn.result(20).status_code for turn in turns] == [200] * 5
    spoken = [content for _, content in history(http, "line")]
    assert spoken == ["first in line", "One."] + [
        content for number in range(4) for content in (f"turn {number}", f"You said: turn {number} ")
    ]
    for number, heard in enumerate(inn.seen):
        assert [message["content"] for message in heard] == spoken[: 3 + 2 * number], "each sees all that came before"


def test_queued_stream_begins_when_its_turn_comes(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("holds the line")
    with http.stream(
        "POST", "/chat/stream", json={"agent_name": "conducted", "input": "holds the line", "session_id": "two"}
    ):
        assert performance.began.wait(10)
        with http.stream("POST", "/chat/stream", json={"input": "Second", "session_id": "two"}) as second:
            assert second.status_code == 200, "the run is accepted at once"
            run_id = second.headers["x-run-id"]
            assert http.get(f"/runs/{run_id}").json()["status"] == "queued"
            performance.end()
            assert frames(second.read())[-1].data["status"] == "completed"


def test_turn_that_would_rather_be_rejected_is_told_who_holds_the_session(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("rejects")
    body = {"agent_name": "conducted", "input": "rejects", "session_id": "rejecting"}
    with http.stream("POST", "/chat/stream", json=body) as first:
        assert performance.began.wait(10)
        for path in ("/chat", "/chat/stream"):
            asked = {"input": "Me too", "session_id": "rejecting", "when_busy": "reject"}
            answer = http.post(path, json=asked)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (409, "RUN_CONFLICT")
            assert error["details"]["run_id"] == first.headers["x-run-id"]
            assert answer.headers["x-should-retry"] == "false"
        performance.end()
        first.read()
    assert history(http, "rejecting") == [("user", "rejects")], "what was refused is not in the history"
    assert (
        http.post("/chat", json={"input": "Now", "session_id": "rejecting", "when_busy": "reject"}).status_code == 200
    )


def test_eleventh_waiting_turn_is_refused_with_a_time_to_retry(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("is popular")
    body = {"agent_name": "conducted", "input": "is popular", "session_id": "popular"}
    with ThreadPoolExecutor(11) as pool:
        first = pool.submit(lambda: http.post("/chat", json=body))
        assert performance.began.wait(10)
        waiting = [
            pool.submit(lambda: http.post("/chat", json={"input": "Hi", "session_id": "popular"})) for _ in range(10)
        ]
        _await_queue(http, "popular", 10)
        refused = http.post("/chat", json={"input": "Hi", "session_id": "popular"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "RATE_LIMITED")
        assert int(refused.headers["retry-after"]) > 0
        assert http.post("/chat", json={"input": "Hi", "session_id": "another"}).status_code == 200
        performance.end()
        assert {turn.result(20).status_code for turn in (first, *waiting)} == {200}
    assert len(history(http, "popular")) == 1 + 2 * 10


def test_turn_that_waits_too_long_is_given_up(http: httpx2.Client, inn: Inn, monkeypatch: pytest.MonkeyPatch) -> None:
    services = inn.app.kernel.house.services
    assert services is not None
    monkeypatch.setattr(services.runs._waiting, "_patience", 0.1)
    performance = inn.conduct("takes its time")
    body = {"agent_name": "conducted", "input": "takes its time", "session_id": "long"}
    with http.stream("POST", "/chat/stream", json=body) as first:
        assert performance.began.wait(10)
        refused = http.post("/chat", json={"input": "Hi", "session_id": "long"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "RATE_LIMITED")
        assert int(refused.headers["retry-after"]) > 0
        performance.end()
        first.read()
    assert ended(http, refused.headers["x-run-id"])["status"] == "failed"
    assert history(http, "long") == [("user", "takes its time")], "a turn that never began leaves nothing"


def test_queued_turn_can_be_cancelled(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("goes first")
    body = {"agent_name": "conducted", "input": "goes first", "session_id": "cancelling"}
    with http.stream("POST", "/chat/stream", json=body) as first:
        assert performance.began.wait(10)
        with http.stream("POST", "/chat/stream", json={"input": "Hi", "session_id": "cancelling"}) as second:
            http.post(f"/runs/{second.headers['x-run-id']}/cancel")
            assert [frame.data["type"] for frame in frames(second.read())] == ["run", "done"]
        third = ThreadPoolExecutor(1)
        waiting = third.submit(lambda: http.post("/chat", json={"input": "Third", "session_id": "cancelling"}))
        _await_queue(http, "cancelling", 1)
        performance.end()
        first.read()
        assert waiting.result(20).status_code == 200
        third.shutdown()
    assert [content for _, content in history(http, "cancelling")] == ["goes first", "Third", "You said: Third "]


def test_failed_turn_makes_way_for_the_next(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("fails in line")
    body = {"agent_name": "conducted", "input": "fails in line", "session_id": "failing-line"}
    with http.stream("POST", "/chat/stream", json=body) as first:
        assert performance.began.wait(10)
        with http.stream("POST", "/chat/stream", json={"input": "Next", "session_id": "failing-line"}) as second:
            performance.fail()
            first.read()
            assert frames(second.read())[-1].data["status"] == "completed"
