"""Runs in the background: accepted at once, executed in their session's order, watched like any other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from tests.support.inns import Inn, Json, ended, frames, history, running_inn, said
from tests.support.sizes import within


def accepted(http: httpx2.Client, text: str, **fields: Any) -> Json:
    answer = http.post("/chat", json={"input": text, "background": True, **fields})
    assert answer.status_code == 202, answer.text
    told: Json = answer.json()
    assert answer.headers["x-run-id"] == told["run_id"]
    return told


def test_it_is_answered_at_once_and_its_end_is_found_later(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("takes a while")
    told = accepted(http, "takes a while", agent_name="conducted", session_id="report", metadata={"a": 1})
    assert told == {
        "run_id": told["run_id"],
        "session_id": "report",
        "agent_name": "conducted",
        "trace_id": told["run_id"].removeprefix("run_"),
        "status": "queued",
    }
    assert performance.began.wait(10)
    under_way = http.get(f"/runs/{told['run_id']}", params={"wait": 0.05}).json()
    assert (under_way["status"], under_way["background"], under_way["attempt"]) == ("running", True, 1)
    performance.say("Here it is.")
    performance.end()
    run = ended(http, told["run_id"])
    assert (run["status"], run["output"], run["metadata"]) == ("completed", "Here it is.", {"a": 1})
    assert history(http, "report") == [("user", "takes a while"), ("assistant", "Here it is.")]


def test_without_a_session_it_makes_one(http: httpx2.Client) -> None:
    told = accepted(http, "Hello")
    ended(http, told["run_id"])
    assert history(http, told["session_id"]) == [("user", "Hello"), ("assistant", "You said: Hello ")]


def test_its_events_are_followed_while_it_runs_and_replayed_afterwards(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("followed")
    told = accepted(http, "followed", agent_name="conducted")
    path = f"/runs/{told['run_id']}/events"
    with http.stream("GET", path) as stream:
        assert performance.began.wait(10)
        performance.say("One. ", "Two.")
        lines = stream.iter_lines()
        seen: list[str] = []
        while not seen or "Two." not in seen[-1]:
            seen.append(next(lines))
        performance.end()
        rest = list(lines)
    replay = http.get(path)
    assert replay.text.split("\n")[:-1] == [*seen, *rest]
    assert said(frames(replay.content)) == "One. Two."


def test_who_waits_for_them_hears_of_each_end_at_once(http: httpx2.Client, inn: Inn) -> None:
    began = time.monotonic()
    for number in range(4):
        blocker, session_id = inn.conduct(f"blocks {number}"), f"blocked {number}"
        body = {"agent_name": "conducted", "input": f"blocks {number}", "session_id": session_id}
        with http.stream("POST", "/chat/stream", json=body) as first, ThreadPoolExecutor(2) as pool:
            assert blocker.began.wait(10)
            told = [accepted(http, text, session_id=session_id)["run_id"] for text in ("cancelled", "executed")]
            waiting = [pool.submit(http.get, f"/runs/{run_id}", params={"wait": 20}) for run_id in told]
            while not all(_is_followed(inn, run_id) for run_id in told):
                pass
            http.post(f"/runs/{told[0]}/cancel")
            assert waiting[0].result(20).json()["status"] == "cancelled"
            blocker.end()
            first.read()
            assert waiting[1].result(20).json()["status"] == "completed"
    assert time.monotonic() - began < within(3, 6), "and not when somebody looks again, a second later"


def _is_followed(inn: Inn, run_id: str) -> bool:
    return run_id in inn.app.kernel.house.services.runs._following._tails  # type: ignore[union-attr]


def test_one_that_fails_tells_so_when_it_is_read(http: httpx2.Client) -> None:
    run = ended(http, accepted(http, "Hello", agent_name="breaking")["run_id"])
    assert (run["status"], run["output"], run["error"]["code"]) == ("failed", "So far so good.", "AGENT_FAILED")


def test_it_takes_its_turn_among_those_of_its_session(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("holds up")
    body = {"agent_name": "conducted", "input": "holds up", "session_id": "turns"}
    with http.stream("POST", "/chat/stream", json=body) as first, ThreadPoolExecutor(1) as pool:
        assert performance.began.wait(10)
        second = accepted(http, "second", session_id="turns")
        third = pool.submit(http.post, "/chat", json={"input": "third", "session_id": "turns"})
        while len(http.get("/runs", params={"session_id": "turns", "status": "queued"}).json()["runs"]) < 2:
            pass
        fourth = accepted(http, "fourth", session_id="turns")
        assert http.get(f"/runs/{second['run_id']}", params={"wait": 0.1}).json()["status"] == "queued"
        performance.end()
        first.read()
        assert third.result(20).status_code == 200
        assert ended(http, fourth["run_id"])["status"] == "completed"
    assert [heard[-1]["content"] for heard in inn.seen] == ["second", "third", "fourth"]
    assert [content for role, content in history(http, "turns") if role == "user"] == [
        "holds up", "second", "third", "fourth",
    ]  # fmt: skip


def test_one_that_waits_can_be_cancelled_and_never_runs(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("in the way")
    body = {"agent_name": "conducted", "input": "in the way", "session_id": "waits"}
    with http.stream("POST", "/chat/stream", json=body) as first, ThreadPoolExecutor(1) as pool:
        assert performance.began.wait(10)
        told = accepted(http, "never", session_id="waits")
        waiting = pool.submit(http.get, f"/runs/{told['run_id']}", params={"wait": 20})
        cancelled = http.post(f"/runs/{told['run_id']}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
        assert waiting.result(5).json()["status"] == "cancelled"
        events = frames(http.get(f"/runs/{told['run_id']}/events").content)
        assert [frame.data["type"] for frame in events] == ["run", "done"]
        performance.end()
        first.read()
    assert not inn.seen
    assert history(http, "waits") == [("user", "in the way")]


def test_one_under_way_can_be_cancelled_and_keeps_what_it_has_said(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("cut short")
    told = accepted(http, "cut short", agent_name="conducted")
    assert performance.began.wait(10)
    performance.say("So far.")
    with http.stream("GET", f"/runs/{told['run_id']}/events") as stream:
        lines = stream.iter_lines()
        while "So far." not in next(lines):
            pass
        http.post(f"/runs/{told['run_id']}/cancel")
        assert "data: [DONE]" in list(lines)
    assert performance.cancelled.wait(10)
    run = ended(http, told["run_id"])
    assert (run["status"], run["output"]) == ("cancelled", "So far.")


def test_it_may_interrupt_and_be_interrupted(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("background first")
    first = accepted(http, "background first", agent_name="conducted", session_id="interrupting")
    assert performance.began.wait(10)
    second = accepted(http, "second", session_id="interrupting", when_busy="interrupt")
    assert ended(http, first["run_id"])["status"] == "cancelled"
    assert ended(http, second["run_id"])["status"] == "completed"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/chat", {"stream": True}, "background"),
        ("/chat/stream", {}, "background"),
        ("/chat", {"when_busy": "steer"}, "when_busy"),
        ("/chat", {"background": "yes"}, "background"),
        ("/chat", {"webhook": "https://example.com/hook"}, "webhook"),
        ("/chat", {"webhook": "not a url"}, "webhook"),
        ("/chat", {"webhook": "https://example.com/" + "x" * 2048}, "webhook"),
        ("/chat", {"webhook": 5}, "webhook"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_runs(
    http: httpx2.Client, inn: Inn, path: str, fields: Json, param: str
) -> None:
    refused = http.post(path, json={"input": "Hi", "background": True, "session_id": "refused", **fields})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, param)
    assert http.get("/sessions/refused").status_code == 404
    assert not inn.seen


def test_webhook_that_is_not_allowed_is_refused_by_the_name_of_the_setting(http: httpx2.Client) -> None:
    refused = http.post("/chat", json={"input": "Hi", "webhook": "https://example.com/hook"})
    assert refused.status_code == 422
    assert "webhook_allowed_hosts" in refused.json()["error"]["message"]


def test_a_turn_on_a_websocket_is_not_in_the_background(inn: Inn) -> None:
    with connect(f"ws{inn.url.removeprefix('http')}/ws/chat") as socket:
        socket.send(json.dumps({"input": "Hi", "background": True}))
        assert json.loads(socket.recv(timeout=10))["error"]["param"] == "background"


def test_runs_are_listed_by_session_agent_and_status_page_by_page(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("listed")
    told = [accepted(http, "listed", agent_name="conducted", session_id="listing")]
    assert performance.began.wait(10)
    told += [accepted(http, f"{number}", session_id="listing", agent_name="busy") for number in range(4)]
    newest_first = [one["run_id"] for one in reversed(told)]

    def listed(**wanted: Any) -> list[str]:
        answer = http.get("/runs", params={"session_id": "listing", **wanted}).json()
        return [run["id"] for run in answer["runs"]]

    assert listed() == newest_first
    assert listed(status="queued") == listed(agent_name="busy") == newest_first[:4]
    assert listed(status="running") == listed(agent_name="conducted") == newest_first[4:]
    assert listed(status="completed") == []
    pages: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = http.get("/runs", params={"session_id": "listing", "limit": 2, **after}).json()
        pages += [run["id"] for run in page["runs"]]
        if not page["has_more"]:
            break
        after = {"after": pages[-1]}
    assert pages == newest_first
    performance.end()
    ended(http, newest_first[0])
    assert listed(status="completed") == newest_first
    assert http.get("/runs", params={"status": "done"}).status_code == 422
    assert http.get("/runs", params={"limit": 0}).status_code == 422
    assert http.get("/runs", params={"session_id": "nowhere"}).json() == {"runs": [], "has_more": False}


@pytest.fixture
def small_inn(tmp_path: Path) -> Iterator[Inn]:
    with running_inn(tmp_path / "small", background_runs=2) as running:
        yield running


def test_no_more_than_the_setting_says_are_executed_at_a_time_and_the_oldest_first(small_inn: Inn) -> None:
    performances = [small_inn.conduct(f"job {number}") for number in range(5)]
    with httpx2.Client(base_url=small_inn.url, timeout=20) as http:
        told = [accepted(http, f"job {number}", agent_name="conducted") for number in range(5)]
        for number in range(5):
            assert performances[number].began.wait(10)
            begun = [performance.began.is_set() for performance in performances]
            assert sum(begun) - number <= 2, "two are under way"
            assert begun == sorted(begun, reverse=True), "in the order in which they came"
            assert http.post("/chat", json={"input": "Hi"}).status_code == 200, (
                "turns with clients do not wait for them"
            )
            if number:
                performances[number - 1].end()
        performances[4].end()
        assert {ended(http, one["run_id"])["status"] for one in told} == {"completed"}
