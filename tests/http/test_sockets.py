"""`WS /ws/chat`: any number of turns on one connection."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.connection import Connection

from tests.support.inns import Inn, Json, ended, history


def socket(inn: Inn, **options: Any) -> ClientConnection:
    return connect(f"ws{inn.url.removeprefix('http')}/ws/chat", **options)


def turn(connection: Connection, **body: Any) -> list[Json]:
    """One turn: its events up to `done` or an error."""
    connection.send(json.dumps(body))
    found: list[Json] = []
    while not found or found[-1]["type"] not in ("done", "error"):
        found.append(json.loads(connection.recv(timeout=10)))
    return found


def refusal(connection: Connection, message: str | bytes) -> Json:
    """The one frame with which a message is refused."""
    connection.send(message)
    frame = json.loads(connection.recv(timeout=10))
    assert frame["type"] == "error", frame
    error: Json = frame["error"]
    return error


def test_turns_follow_one_another_on_one_connection(inn: Inn, http: httpx2.Client) -> None:
    with socket(inn) as connection:
        for text in ("One", "Two", "Three"):
            found = turn(connection, input=text, session_id="ws")
            assert [event["type"] for event in found] == ["run", "text", "text", "text", "done"]
            assert (found[-1]["status"], found[-1]["output"]) == ("completed", f"You said: {text} ")
    assert [content for _, content in history(http, "ws")] == [
        "One", "You said: One ", "Two", "You said: Two ", "Three", "You said: Three ",
    ]  # fmt: skip


def test_turns_that_are_sent_at_once_are_answered_in_order(inn: Inn) -> None:
    with socket(inn) as connection:
        for number in range(10):
            connection.send(json.dumps({"input": f"number {number}"}))
        outputs: list[str] = []
        while len(outputs) < 10:
            event = json.loads(connection.recv(timeout=10))
            outputs += [event["output"]] if event["type"] == "done" else []
    assert outputs == [f"You said: number {number} " for number in range(10)]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("{not json", "not valid JSON"),
        ("", "empty"),
        ('{"input": "a", "input": "b"}', "same name twice"),
        ('{"input": NaN}', "not valid JSON"),
        ("[" * 100_000, "nested"),
        ('"Hi"', "body"),
        ("{}", "input"),
        ('{"input": "  "}', "input"),
        ('{"input": 5}', "input"),
        (b'{"input": "Hi"}', "text messages"),
        ('{"input": "' + "x" * 1024 * 1024 + '"}', "at most"),
        ('{"input": "Hi", "agent_name": "nobody"}', "nobody"),
    ],
)
def test_what_cannot_be_understood_is_told_and_keeps_the_connection(inn: Inn, message: str | bytes, told: str) -> None:
    with socket(inn) as connection:
        error = refusal(connection, message)
        assert told in error["message"]
        assert error["code"] in ("VALIDATION_ERROR", "AGENT_NOT_FOUND")
        assert turn(connection, input="Still there?")[-1]["output"] == "You said: Still there? "


def test_failing_agent_tells_error_then_done_and_keeps_the_connection(inn: Inn) -> None:
    with socket(inn) as connection:
        connection.send(json.dumps({"agent_name": "breaking", "input": "Go"}))
        found = [json.loads(connection.recv(timeout=10)) for _ in range(5)]
        assert [event["type"] for event in found] == ["run", "text", "text", "error", "done"]
        assert (found[3]["error"]["code"], found[4]["status"]) == ("AGENT_FAILED", "failed")
        assert "open-sesame" not in str(found)
        assert turn(connection, input="Still there?")[-1]["status"] == "completed"


def test_client_that_leaves_does_not_end_its_run(inn: Inn, http: httpx2.Client) -> None:
    performance = inn.conduct("ws leaves")
    with socket(inn) as connection:
        connection.send(json.dumps({"agent_name": "conducted", "input": "ws leaves"}))
        run_id = json.loads(connection.recv(timeout=10))["run_id"]
    performance.say("Said to nobody.")
    performance.end()
    assert ended(http, run_id)["output"] == "Said to nobody."


def test_client_that_leaves_ends_its_run_where_it_asked_for_that(inn: Inn, http: httpx2.Client) -> None:
    performance = inn.conduct("ws cancels")
    with socket(inn) as connection:
        body = {"agent_name": "conducted", "input": "ws cancels", "on_disconnect": "cancel"}
        connection.send(json.dumps(body))
        run_id = json.loads(connection.recv(timeout=10))["run_id"]
    assert performance.cancelled.wait(10)
    assert ended(http, run_id)["status"] == "cancelled"


def test_client_that_leaves_without_a_word_does_not_end_its_run(inn: Inn, http: httpx2.Client) -> None:
    performance = inn.conduct("ws vanishes")
    connection = socket(inn)
    connection.send(json.dumps({"agent_name": "conducted", "input": "ws vanishes"}))
    run_id = json.loads(connection.recv(timeout=10))["run_id"]
    connection.socket.shutdown(2)
    connection.close()
    performance.end()
    assert ended(http, run_id)["status"] == "completed"


def test_more_than_ten_waiting_turns_are_refused(inn: Inn) -> None:
    performance = inn.conduct("ws holds")
    with socket(inn) as connection:
        connection.send(json.dumps({"agent_name": "conducted", "input": "ws holds"}))
        assert json.loads(connection.recv(timeout=10))["type"] == "run"
        for _ in range(10):
            connection.send(json.dumps({"input": "Hi"}))
        assert refusal(connection, json.dumps({"input": "Hi"}))["code"] == "RATE_LIMITED"
        performance.end()
        done = 0
        while done < 11:
            done += json.loads(connection.recv(timeout=10))["type"] == "done"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
def test_foreign_origin_is_refused_before_the_connection_is_accepted(inn: Inn, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        socket(inn, origin=origin).close()
    assert refused.value.response.status_code == 403


def test_own_origin_is_welcome(inn: Inn) -> None:
    with socket(inn, origin=inn.url) as connection:
        assert turn(connection, input="Hi")[-1]["status"] == "completed"


@pytest.mark.parametrize(
    "headers", [{"x-forwarded-for": "10.0.0.1"}, {"via": "1.1 proxy"}, {"sec-fetch-site": "cross-site"}]
)
def test_stranger_is_refused_before_the_connection_is_accepted(inn: Inn, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as refused:
        socket(inn, additional_headers=headers).close()
    assert refused.value.response.status_code == 403


def test_path_that_leads_nowhere_is_refused(inn: Inn) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws{inn.url.removeprefix('http')}/ws/nothing").close()
    assert refused.value.response.status_code == 403


def test_a_cancel_that_follows_a_turn_is_about_it_though_the_turn_before_was_refused(inn: Inn) -> None:
    for number in range(10):
        said = f"ws cancelled behind a refusal, {number}"
        performance = inn.conduct(said)
        with socket(inn) as connection:
            for message in ("{", json.dumps({"input": said, "agent_name": "conducted"}), '{"type": "cancel"}'):
                connection.send(message)
            found: list[Json] = []
            while not found or found[-1]["type"] != "done":
                found.append(json.loads(connection.recv(timeout=30)))
        performance.end()
        assert [event["type"] for event in found] == ["error", "run", "done"]
        assert found[-1]["status"] == "cancelled"
