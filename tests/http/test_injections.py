"""`POST /inject` and its receipts: a message for a run under way, or for the next one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from tests.support.inns import Inn, Json, Performance, bare_app, ended, frames, history, said
from tests.support.servers import serve_app

_numbers = count(1)
DAY = 24 * 60 * 60 * 1_000_000


def inject(http: httpx2.Client, message: str, **where: Any) -> Json:
    answer = http.post("/inject", json={"message": message, **where})
    assert answer.status_code == 200, answer.text
    told: Json = answer.json()
    assert told.keys() == {"status", "injection_id", "run_id"}
    assert told["status"] == "injected"
    return told


def receipt(http: httpx2.Client, injection_id: str) -> Json:
    told: Json = http.get(f"/injections/{injection_id}").json()
    assert told["id"] == injection_id and told["created_at"].endswith("Z")
    return told


@contextmanager
def under_way(http: httpx2.Client, inn: Inn, session_id: str) -> Iterator[tuple[Performance, httpx2.Response]]:
    """A streamed run of the agent `conducted` that has begun."""
    prompt = f"Go {next(_numbers)}"
    performance = inn.conduct(prompt)
    body = {"agent_name": "conducted", "input": prompt, "session_id": session_id}
    with http.stream("POST", "/chat/stream", json=body) as answer:
        assert performance.began.wait(10)
        yield performance, answer


def change(inn: Inn, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(inn.database, timeout=10)) as database, database:
        database.execute(sql, values)


def test_message_is_in_the_stream_where_the_agent_takes_it_and_its_receipt_says_where(
    http: httpx2.Client, inn: Inn
) -> None:
    with under_way(http, inn, "steered") as (performance, stream):
        told = inject(http, "Use metric units", session_id="steered")
        waiting = receipt(http, told["injection_id"])
        assert (waiting["status"], waiting["run_id"], waiting["seq"]) == ("accepted", told["run_id"], None)
        performance.say("Before.")
        performance.look()
        performance.say("After.")
        performance.end()
        found = frames(stream.read())
    shown = [frame.data["content"] for frame in found if "content" in frame.data]
    assert shown == ["Before.", "Use metric units", "[Use metric units]", "After."]
    (event,) = [frame for frame in found if frame.data["type"] == "message_injected"]
    assert event.data == {
        "type": "message_injected",
        "content": "Use metric units",
        "injection_id": told["injection_id"],
    }
    delivered = receipt(http, told["injection_id"])
    assert (delivered["status"], delivered["run_id"], delivered["seq"]) == ("delivered", told["run_id"], event.seq)
    assert told["run_id"] == stream.headers["x-run-id"]
    assert history(http, "steered")[1:] == [
        ("assistant", "Before."),
        ("user", "Use metric units"),
        ("assistant", "[Use metric units]After."),
    ]


def test_messages_are_taken_in_the_order_in_which_they_came(http: httpx2.Client, inn: Inn) -> None:
    with under_way(http, inn, "ordered") as (performance, stream):
        for number in range(20):
            inject(http, f"{number}", session_id="ordered")
        performance.look()
        performance.end()
        assert said(frames(stream.read())) == "".join(f"[{number}]" for number in range(20))


@pytest.mark.parametrize("names", ["run_id", "session_id", "agent_name"])
def test_message_goes_to_the_newest_run_that_fits(http: httpx2.Client, inn: Inn, names: str) -> None:
    older, newer = f"older by {names}", f"newer by {names}"
    with under_way(http, inn, older) as (first, one), under_way(http, inn, newer) as (second, two):
        of_older = {"run_id": one.headers["x-run-id"], "session_id": older}
        where = {names: of_older.get(names, "conducted")}
        told = inject(http, "Hush", **where)
        for performance in (first, second):
            performance.look()
            performance.end()
        outputs = [said(frames(stream.read())) for stream in (one, two)]
    assert outputs == (["[Hush]", ""] if where.keys() & of_older.keys() else ["", "[Hush]"])
    assert told["run_id"] == (one if outputs[0] else two).headers["x-run-id"]


def test_message_for_an_idle_session_is_the_first_of_its_next_turn(http: httpx2.Client, inn: Inn) -> None:
    http.post("/chat", json={"input": "Hello", "session_id": "idle"})
    told = inject(http, "Be brief", session_id="idle")
    assert told["run_id"] is None
    waiting = receipt(http, told["injection_id"])
    assert (waiting["status"], waiting["run_id"], waiting["seq"]) == ("deferred", None, None)
    found = frames(http.post("/chat/stream", json={"input": "Go on", "session_id": "idle"}).content)
    assert [frame.data["type"] for frame in found[:3]] == ["run", "message_injected", "text"]
    assert found[1].data == {
        "type": "message_injected",
        "content": "Be brief",
        "injection_id": told["injection_id"],
        "deferred": True,
    }
    delivered = receipt(http, told["injection_id"])
    assert (delivered["status"], delivered["run_id"], delivered["seq"]) == ("delivered", found[0].data["run_id"], 2)
    assert [message["content"] for message in inn.seen[-1]][2:] == ["Be brief", "Go on"]
    assert [content for _, content in history(http, "idle")][2:4] == ["Be brief", "Go on"]


def test_message_that_its_run_did_not_take_waits_for_the_next_turn_of_the_session(
    http: httpx2.Client, inn: Inn
) -> None:
    with under_way(http, inn, "missed") as (performance, stream):
        told = inject(http, "Too late", run_id=stream.headers["x-run-id"])
        assert told["run_id"] == stream.headers["x-run-id"]
        performance.end()
        assert "message_injected" not in [frame.data["type"] for frame in frames(stream.read())]
    missed = receipt(http, told["injection_id"])
    assert (missed["status"], missed["run_id"], missed["seq"]) == ("deferred", None, None)
    http.post("/chat", json={"input": "Elsewhere", "session_id": "another"})
    assert receipt(http, told["injection_id"])["status"] == "deferred", "it is another session's"
    answer = http.post("/chat", json={"input": "Next", "session_id": "missed"}).json()
    assert [message["content"] for message in inn.seen[-1]][1:] == ["Too late", "Next"]
    assert receipt(http, told["injection_id"])["run_id"] == answer["run_id"]


def test_message_for_no_session_waits_for_the_next_run_of_its_agent(http: httpx2.Client, inn: Inn) -> None:
    told = inject(http, "For the busy one", agent_name="busy")
    http.post("/chat", json={"input": "Hello"})
    assert receipt(http, told["injection_id"])["status"] == "deferred"
    http.post("/chat", json={"input": "Hello", "agent_name": "busy"})
    assert receipt(http, told["injection_id"])["status"] == "delivered"
    assert [message["content"] for message in inn.seen[-1]] == ["For the busy one", "Hello"]


def test_message_that_names_nothing_is_for_the_default_agent(http: httpx2.Client, inn: Inn) -> None:
    with under_way(http, inn, "of another agent") as (performance, answer):
        told = inject(http, "For the default one")
        performance.look()
        performance.end()
        assert said(frames(answer.read())) == ""
    assert told["run_id"] is None
    assert receipt(http, told["injection_id"])["status"] == "deferred"
    http.post("/chat", json={"input": "Hello"})
    assert receipt(http, told["injection_id"])["status"] == "delivered"


def test_message_for_a_run_that_is_over_or_has_not_begun_is_left_to_its_session(http: httpx2.Client, inn: Inn) -> None:
    over = http.post("/chat", json={"input": "Hello", "session_id": "over"}).json()["run_id"]
    assert inject(http, "Late", run_id=over)["run_id"] is None
    http.post("/chat", json={"input": "Next", "session_id": "over"})
    assert [message["content"] for message in inn.seen[-1]][2:] == ["Late", "Next"]
    with under_way(http, inn, "waits") as (performance, stream):
        body = {"input": "Queued", "session_id": "waits", "background": True}
        queued = http.post("/chat", json=body).json()["run_id"]
        assert inject(http, "Early", run_id=queued)["run_id"] is None
        performance.look()
        performance.end()
        assert said(frames(stream.read())) == ""
    ended(http, queued)
    assert [message["content"] for message in inn.seen[-1]][1:] == ["Early", "Queued"]


def test_message_that_nobody_took_for_a_day_is_expired_and_never_delivered(http: httpx2.Client, inn: Inn) -> None:
    http.post("/sessions", json={"id": "forgotten"})
    told = inject(http, "Old news", session_id="forgotten")
    change(inn, "UPDATE injections SET created_at = created_at - ? WHERE id = ?", DAY, told["injection_id"])
    assert receipt(http, told["injection_id"])["status"] == "expired"
    http.post("/chat", json={"input": "Hello", "session_id": "forgotten"})
    assert [message["content"] for message in inn.seen[-1]] == ["Hello"]
    assert receipt(http, told["injection_id"])["status"] == "expired"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 422, "VALIDATION_ERROR", "message"),
        ({"message": ""}, 422, "VALIDATION_ERROR", "message"),
        ({"message": " \n\t"}, 422, "VALIDATION_ERROR", "message"),
        ({"message": 5}, 422, "VALIDATION_ERROR", "message"),
        ({"message": [{"type": "text", "text": "Hi"}]}, 422, "VALIDATION_ERROR", "message"),
        ({"message": "Hi", "run_id": ""}, 422, "VALIDATION_ERROR", "run_id"),
        ({"message": "Hi", "run_id": "a\u0000b"}, 422, "VALIDATION_ERROR", "run_id"),
        ({"message": "Hi", "agent_name": "nobody"}, 404, "AGENT_NOT_FOUND", "agent_name"),
        ({"message": "Hi", "session_id": "nowhere"}, 404, "SESSION_NOT_FOUND", "session_id"),
        ({"message": "Hi", "run_id": "run_0"}, 404, "RUN_NOT_FOUND", "run_id"),
    ],
)
def test_what_cannot_be_injected_is_refused(
    http: httpx2.Client, body: Json, status: int, code: str, param: str
) -> None:
    refused = http.post("/inject", json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (status, code, param)


def test_receipt_that_does_not_exist_is_not_found(http: httpx2.Client) -> None:
    missing = http.get("/injections/inj_0")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "INJECTION_NOT_FOUND")


def test_without_agents_or_a_default_it_is_said_what_is_missing(tmp_path: Path) -> None:
    with serve_app(bare_app(tmp_path / "bare")) as url:
        none = httpx2.post(f"{url}/inject", json={"message": "Hi"})
    assert (none.status_code, none.json()["error"]["code"]) == (503, "NO_AGENTS")
    app = ServerBase(settings=load_settings({"data_dir": tmp_path / "data"}))
    app.agent("one", default=False)(lambda messages: "Hi")
    with serve_app(app) as url:
        unnamed = httpx2.post(f"{url}/inject", json={"message": "Hi"})
        named = httpx2.post(f"{url}/inject", json={"message": "Hi", "agent_name": "one"})
    assert (unnamed.status_code, unnamed.json()["error"]["code"]) == (400, "NO_DEFAULT_AGENT")
    assert named.status_code == 200


def test_message_for_one_end_user_is_for_no_run_of_another(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("Only mine")
    body = {"agent_name": "conducted", "input": "Only mine", "session_id": "shared", "user_id": "ada"}
    with http.stream("POST", "/chat/stream", json=body) as stream:
        assert performance.began.wait(10)
        run_id = stream.headers["x-run-id"]
        for where in ({"agent_name": "conducted"}, {"run_id": run_id}, {"session_id": "shared"}):
            refused = http.post("/inject", json={"message": "Not yours", "user_id": "eve", **where})
            assert refused.status_code == 404, refused.text
        assert inject(http, "Yours", agent_name="conducted", user_id="ada")["run_id"] == run_id
        performance.look()
        performance.end()
        assert said(frames(stream.read())) == "[Yours]"
    idle = http.post("/inject", json={"message": "Hi", "agent_name": "conducted", "user_id": "ada"})
    assert (idle.status_code, idle.json()["error"]["param"]) == (404, "user_id")
    assert "session_id" in idle.json()["error"]["message"]


def test_what_belongs_to_another_owner_is_neither_found_nor_steered(http: httpx2.Client, inn: Inn) -> None:
    with under_way(http, inn, "foreign") as (performance, stream):
        told = inject(http, "Mine", session_id="foreign")
        for table in ("runs", "sessions", "injections"):
            change(inn, f"UPDATE {table} SET owner = 'stranger' WHERE owner = 'local'")
        run_id = stream.headers["x-run-id"]
        try:
            for where in ({"run_id": run_id}, {"session_id": "foreign"}):
                assert http.post("/inject", json={"message": "Hi", **where}).status_code == 404
            assert http.get(f"/injections/{told['injection_id']}").status_code == 404
            assert inject(http, "Hi", agent_name="conducted")["run_id"] is None
        finally:
            for table in ("runs", "sessions", "injections"):
                change(inn, f"UPDATE {table} SET owner = 'local' WHERE owner = 'stranger'")
        performance.look()
        performance.end()
        assert said(frames(stream.read())) == "[Mine]"
