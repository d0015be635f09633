"""`when_busy`: what a turn does that finds its session busy, on every surface: steer, interrupt, or wait."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from tests.support.inns import Inn, Json, Performance, ended, frames, history, said

CHUNKED = ("/v1/chat/completions", "/conducted/chat/completions")


def body(path: str, text: str, session_id: str, **fields: Any) -> Json:
    """A turn of the agent `conducted`, in the words of its surface."""
    told: Json = {"session_id": session_id, **fields}
    if "completions" in path:
        return {**told, "model": "conducted", "messages": [{"role": "user", "content": text}]}
    return {**told, "agent_name": "conducted", "input": text}


class Busy:
    """A session with a run under way, whose client waits for its answer."""

    def __init__(self, http: httpx2.Client, inn: Inn, session_id: str) -> None:
        self.session_id = session_id
        self._http = http
        self._pool = ThreadPoolExecutor(8)
        self.performance: Performance = inn.conduct(f"first of {session_id}")
        self.answer = self.ask("/chat", f"first of {session_id}")
        assert self.performance.began.wait(10)
        self.run_id: str = http.get("/runs", params={"session_id": session_id}).json()["runs"][0]["id"]

    def ask(self, path: str, text: str, **fields: Any) -> Future[httpx2.Response]:
        return self._pool.submit(self._http.post, path, json=body(path, text, self.session_id, **fields))

    def await_statuses(self, *statuses: str) -> None:
        """Returns when the session's runs have these statuses, the oldest first."""
        while True:
            runs = self._http.get("/runs", params={"session_id": self.session_id}).json()["runs"]
            if [run["status"] for run in reversed(runs)] == list(statuses):
                return
            time.sleep(0.005)


def injected(inn: Inn, run_id: str) -> int:
    """How many messages wait for a run."""
    with closing(sqlite3.connect(inn.database, timeout=10)) as database:
        found = database.execute("SELECT count(*) FROM injections WHERE run_id = ?", [run_id]).fetchone()
    return int(found[0])


def await_injection(inn: Inn, run_id: str) -> None:
    while not injected(inn, run_id):
        time.sleep(0.005)


@pytest.mark.parametrize("path", ["/chat", *CHUNKED])
def test_turn_that_steers_is_answered_by_the_run_that_it_steered(http: httpx2.Client, inn: Inn, path: str) -> None:
    busy = Busy(http, inn, f"steered {path.replace('/', '-')}")
    steering = busy.ask(path, "Use metric units", when_busy="steer")
    await_injection(inn, busy.run_id)
    busy.performance.say("So: ")
    busy.performance.look()
    busy.performance.end()
    answer, first = steering.result(20), busy.answer.result(20)
    assert answer.status_code == first.status_code == 200, answer.text
    assert answer.headers["x-run-id"] == busy.run_id == first.headers["x-run-id"]
    receipt = http.get(f"/injections/{answer.headers['x-injection-id']}").json()
    assert (receipt["status"], receipt["run_id"], receipt["content"]) == ("delivered", busy.run_id, "Use metric units")
    told = answer.json()
    output = told["choices"][0]["message"]["content"] if path in CHUNKED else told["output"]
    assert output == first.json()["output"] == "So: [Use metric units]"
    assert "x-injection-id" not in first.headers
    busy.await_statuses("completed")
    assert ("user", "Use metric units") in history(http, busy.session_id)


def test_stream_of_a_turn_that_steers_begins_where_it_came(http: httpx2.Client, inn: Inn) -> None:
    busy = Busy(http, inn, "streams")
    with http.stream("GET", f"/runs/{busy.run_id}/events") as whole:
        busy.performance.say("Before.")
        lines = whole.iter_lines()
        while "Before." not in next(lines):
            pass
        asked = body("/chat/stream", "Hush", "streams", when_busy="steer")
        with http.stream("POST", "/chat/stream", json=asked) as answer:
            busy.performance.look()
            busy.performance.end()
            found = frames(answer.read())
    assert [frame.data["type"] for frame in found] == ["message_injected", "text", "done"]
    assert found[0].data["injection_id"] == answer.headers["x-injection-id"]
    assert said(found) == "[Hush]"
    replay = frames(http.get(f"/runs/{busy.run_id}/events").content)
    assert replay[-3:] == found, "they are the run's own frames"


@pytest.mark.parametrize("path", CHUNKED)
def test_chunks_of_a_turn_that_steers_begin_with_the_role(http: httpx2.Client, inn: Inn, path: str) -> None:
    busy = Busy(http, inn, f"chunks {CHUNKED.index(path)}")
    busy.performance.say("Before.")
    with http.stream("GET", f"/runs/{busy.run_id}/events") as whole:
        lines = whole.iter_lines()
        while "Before." not in next(lines):
            pass
    asked = body(path, "Hush", busy.session_id, when_busy="steer", stream=True)
    with http.stream("POST", path, json=asked) as answer:
        busy.performance.look()
        busy.performance.end()
        *chunks, end = [line[6:] for line in answer.read().decode().split("\n\n") if line]
    assert end == "[DONE]"
    deltas = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert [one["delta"] for one in deltas] == [{"role": "assistant", "content": ""}, {"content": "[Hush]"}, {}]
    assert deltas[-1]["finish_reason"] == "stop"
    assert answer.headers["x-run-id"] == busy.run_id


def test_turn_on_a_websocket_that_steers_is_told_its_receipt_and_the_rest_of_the_run(
    http: httpx2.Client, inn: Inn
) -> None:
    busy = Busy(http, inn, "socket")
    with connect(f"ws{inn.url.removeprefix('http')}/ws/chat") as socket:
        socket.send(json.dumps(body("/ws/chat", "Hush", "socket", when_busy="steer")))
        told = json.loads(socket.recv(timeout=10))
        assert told == {
            "type": "injected",
            "status": "injected",
            "injection_id": told["injection_id"],
            "run_id": busy.run_id,
        }
        busy.performance.look()
        busy.performance.end()
        events = [json.loads(socket.recv(timeout=10)) for _ in range(3)]
    assert [event["type"] for event in events] == ["message_injected", "text", "done"]
    assert events[0]["injection_id"] == told["injection_id"]


def test_turn_that_steers_a_run_in_its_last_moment_is_answered_by_its_end(http: httpx2.Client, inn: Inn) -> None:
    busy = Busy(http, inn, "last moment")
    asked = body("/chat/stream", "Hush", "last moment", when_busy="steer")
    with http.stream("POST", "/chat/stream", json=asked) as answer:
        busy.performance.end()
        found = frames(answer.read())
    assert [frame.data["type"] for frame in found] == ["done"]
    assert http.get(f"/injections/{answer.headers['x-injection-id']}").json()["status"] == "deferred"
    http.post("/chat", json={"input": "Next", "session_id": "last moment"})
    assert [message["content"] for message in inn.seen[-1]][1:] == ["Hush", "Next"]


def test_turn_that_races_with_the_end_of_the_run_is_told_an_end_whichever_comes_first(
    http: httpx2.Client, inn: Inn
) -> None:
    pause = 0.002
    met: set[bool] = set()
    for number in range(100):
        busy = Busy(http, inn, f"race {number}")
        asked = {"input": "Hush", "session_id": busy.session_id, "when_busy": "steer"}
        late = threading.Timer(pause, busy.performance.end)
        late.start()
        answer = http.post("/chat/stream", json=asked)
        assert frames(answer.content)[-1].data["type"] == "done"
        has_steered = "x-injection-id" in answer.headers
        met.add(has_steered)
        pause = pause * 0.8 if has_steered else pause * 1.25 + 0.0001  # to where the two meet
        assert busy.answer.result(20).status_code == 200
    assert met == {True, False}


def test_turn_that_steered_is_not_injected_again_when_it_is_repeated(http: httpx2.Client, inn: Inn) -> None:
    busy = Busy(http, inn, "repeated")
    asked, key = body("/chat", "Hush", "repeated", when_busy="steer"), {"idempotency-key": "steers"}
    with ThreadPoolExecutor(4) as pool:
        steering = [pool.submit(http.post, "/chat", json=asked, headers=key) for _ in range(4)]
        await_injection(inn, busy.run_id)
        while inn.app.kernel.house.services.runs._executions.all()[0].readers < 5:  # type: ignore[union-attr]
            pass
        busy.performance.look()
        busy.performance.end()
        answers = [one.result(20) for one in steering]
    answers.append(http.post("/chat", json=asked, headers=key))
    assert injected(inn, busy.run_id) == 1
    assert len({(answer.content, answer.headers["x-injection-id"]) for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 4


@pytest.mark.parametrize("wish", ["steer", "interrupt", "reject", "queue"])
@pytest.mark.parametrize("path", ["/chat", "/chat/stream", "/v1/chat/completions", "/echo/chat/completions"])
def test_on_an_idle_session_any_of_them_just_runs(http: httpx2.Client, wish: str, path: str) -> None:
    asked = body(path, "Hello", f"idle {wish}") | {"agent_name": "echo", "model": "echo", "when_busy": wish}
    answer = http.post(path, json=asked)
    assert answer.status_code == 200, answer.text
    assert "x-injection-id" not in answer.headers
    assert ended(http, answer.headers["x-run-id"])["output"] == "You said: Hello "


def test_turn_that_interrupts_ends_the_one_under_way_and_keeps_what_it_had_said(http: httpx2.Client, inn: Inn) -> None:
    busy = Busy(http, inn, "interrupted")
    busy.performance.say("I was going to s")
    with http.stream("GET", f"/runs/{busy.run_id}/events") as whole:
        lines = whole.iter_lines()
        while "going" not in next(lines):
            pass
    asked = {"input": "Stop that", "session_id": "interrupted", "when_busy": "interrupt"}
    answer = http.post("/chat", json=asked)
    assert answer.json()["output"] == "You said: Stop that "
    assert busy.performance.cancelled.wait(10), "its code was told"
    cut = busy.answer.result(20)
    assert (cut.status_code, cut.json()["error"]["code"]) == (409, "CANCELLED")
    run = http.get(f"/runs/{busy.run_id}").json()
    assert (run["status"], run["output"]) == ("cancelled", "I was going to s")
    assert [message["content"] for message in inn.seen[-1]] == [
        "first of interrupted",
        "I was going to s",
        "Stop that",
    ], "it is told what had been said"


def test_turn_that_interrupts_waits_behind_those_that_came_before_it(http: httpx2.Client, inn: Inn) -> None:
    busy = Busy(http, inn, "in order")
    asked = {"session_id": "in order", "agent_name": "echo"}
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(http.post, "/chat", json={**asked, "input": "Second"})
        busy.await_statuses("running", "queued")
        answer = http.post("/chat", json={**asked, "input": "Third", "when_busy": "interrupt"})
        assert waiting.result(20).status_code == answer.status_code == 200
    assert [heard[-1]["content"] for heard in inn.seen] == ["Second", "Third"]
    busy.await_statuses("cancelled", "completed", "completed")


def test_turn_on_a_websocket_can_interrupt(http: httpx2.Client, inn: Inn) -> None:
    busy = Busy(http, inn, "socket interrupts")
    asked = {"input": "Stop", "session_id": "socket interrupts", "when_busy": "interrupt"}
    with connect(f"ws{inn.url.removeprefix('http')}/ws/chat") as socket:
        socket.send(json.dumps(asked))
        events = [json.loads(socket.recv(timeout=10))]
        while events[-1]["type"] != "done":
            events.append(json.loads(socket.recv(timeout=10)))
    assert events[-1]["output"] == "You said: Stop "
    assert busy.answer.result(20).json()["error"]["code"] == "CANCELLED"


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


@pytest.mark.parametrize("content", [[IMAGE], [{"type": "text", "text": "Look"}, IMAGE]])
def test_only_text_can_steer(http: httpx2.Client, content: list[Json]) -> None:
    native = http.post("/chat", json={"input": content, "session_id": "s", "when_busy": "steer"})
    assert (native.status_code, native.json()["error"]["param"]) == (422, "input")
    messages = [{"role": "user", "content": content}]
    asked = {"model": "echo", "messages": messages, "session_id": "s", "when_busy": "steer"}
    chunked = http.post("/v1/chat/completions", json=asked)
    assert (chunked.status_code, chunked.json()["error"]["param"]) == (400, "messages")
    assert "text" in chunked.json()["error"]["message"]


@pytest.mark.parametrize("wish", ["", "later", 1, None, ["steer"]])
def test_unknown_wishes_are_refused_and_the_field_is_named(http: httpx2.Client, inn: Inn, wish: object) -> None:
    for path in ("/chat", "/chat/stream"):
        refused = http.post(path, json={"input": "Hi", "when_busy": wish})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "when_busy")
    with connect(f"ws{inn.url.removeprefix('http')}/ws/chat") as socket:
        socket.send(json.dumps({"input": "Hi", "when_busy": wish}))
        assert json.loads(socket.recv(timeout=10))["error"]["param"] == "when_busy"
    if wish is not None:  # which is as good as nothing to OpenAI's clients
        asked = {"messages": [{"role": "user", "content": "Hi"}], "when_busy": wish}
        refused = http.post("/v1/chat/completions", json=asked)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "when_busy")
