"""`WS /ws/chat`: frames that are no turns, which steer or end the turn that runs."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.sync.connection import Connection

from tests.support.inns import Inn, Json, Performance, ended


def socket(inn: Inn) -> ClientConnection:
    return connect(f"ws{inn.url.removeprefix('http')}/ws/chat")


def receive(connection: Connection) -> Json:
    told: Json = json.loads(connection.recv(timeout=10))
    return told


def send(connection: Connection, **frame: Any) -> None:
    connection.send(json.dumps(frame))


def begin(connection: Connection, inn: Inn, prompt: str, **body: Any) -> tuple[Performance, str]:
    """A turn of the agent `conducted` that has begun, and its run's id."""
    send(connection, agent_name="conducted", input=prompt, **body)
    performance = inn.conduct(prompt)
    run_id: str = receive(connection)["run_id"]
    assert performance.began.wait(10)
    return performance, run_id


def test_message_is_injected_into_the_turn_that_runs(inn: Inn, http: httpx2.Client) -> None:
    with socket(inn) as connection:
        performance, run_id = begin(connection, inn, "socket steers")
        send(connection, type="inject", message="Hush")
        told = receive(connection)
        assert told == {
            "type": "injected",
            "status": "injected",
            "injection_id": told["injection_id"],
            "run_id": run_id,
        }
        performance.look()
        performance.end()
        events = [receive(connection) for _ in range(3)]
        assert events[0] == {"type": "message_injected", "content": "Hush", "injection_id": told["injection_id"]}
        assert (events[1]["content"], events[2]["type"]) == ("[Hush]", "done")
    receipt = http.get(f"/injections/{told['injection_id']}").json()
    assert (receipt["status"], receipt["run_id"], receipt["seq"]) == ("delivered", run_id, 2)


def test_message_can_name_the_run_the_session_or_the_agent(inn: Inn) -> None:
    with socket(inn) as other, socket(inn) as connection:
        performance, run_id = begin(other, inn, "socket elsewhere", session_id="elsewhere")
        for where in ({"run_id": run_id}, {"session_id": "elsewhere"}, {"agent_name": "conducted"}):
            send(connection, type="inject", message="Hush", **where)
            assert receive(connection)["run_id"] == run_id
        performance.look()
        performance.end()
        assert [receive(other)["type"] for _ in range(7)] == ["message_injected"] * 3 + ["text"] * 3 + ["done"]


def test_turn_that_runs_can_be_cancelled(inn: Inn, http: httpx2.Client) -> None:
    with socket(inn) as connection:
        performance, run_id = begin(connection, inn, "socket stops")
        performance.say("So far.")
        assert receive(connection)["content"] == "So far."
        send(connection, type="cancel")
        done = receive(connection)
        assert (done["type"], done["status"], done["output"]) == ("done", "cancelled", "So far.")
        assert performance.cancelled.wait(10)
        send(connection, input="Still there?")
        assert receive(connection)["type"] == "run"
    assert ended(http, run_id)["status"] == "cancelled"


def test_turn_that_waits_for_its_session_can_be_cancelled(inn: Inn) -> None:
    with socket(inn) as first, socket(inn) as second:
        performance, _ = begin(first, inn, "socket holds", session_id="held")
        send(second, input="Never", session_id="held")
        assert receive(second)["type"] == "run"
        send(second, type="cancel")
        assert receive(second)["status"] == "cancelled"
        performance.end()
        assert receive(first)["status"] == "completed"


def test_on_an_idle_connection_nothing_can_be_cancelled_and_a_message_waits(inn: Inn, http: httpx2.Client) -> None:
    with socket(inn) as connection:
        send(connection, type="cancel")
        error = receive(connection)["error"]
        assert (error["code"], error["param"]) == ("VALIDATION_ERROR", "type")
        send(connection, type="inject", message="Later", agent_name="busy")
        told = receive(connection)
        assert (told["type"], told["run_id"]) == ("injected", None)
        assert http.get(f"/injections/{told['injection_id']}").json()["status"] == "deferred"
        send(connection, input="Hello", agent_name="busy")
        assert receive(connection)["type"] == "run"
        assert receive(connection) == {
            "type": "message_injected",
            "content": "Later",
            "injection_id": told["injection_id"],
            "deferred": True,
        }


@pytest.mark.parametrize(
    ("frame", "code", "param"),
    [
        ({"type": "inject"}, "VALIDATION_ERROR", "message"),
        ({"type": "inject", "message": "  "}, "VALIDATION_ERROR", "message"),
        ({"type": "inject", "message": 5}, "VALIDATION_ERROR", "message"),
        ({"type": "inject", "message": "Hi", "run_id": "run_0"}, "RUN_NOT_FOUND", "run_id"),
        ({"type": "inject", "message": "Hi", "session_id": "nowhere"}, "SESSION_NOT_FOUND", "session_id"),
        ({"type": "inject", "message": "Hi", "agent_name": "nobody"}, "AGENT_NOT_FOUND", "agent_name"),
        ({"type": "injekt", "message": "Hi"}, "VALIDATION_ERROR", "type"),
        ({"type": "steer", "input": "Hi"}, "VALIDATION_ERROR", "type"),
        ({"type": "", "input": "Hi"}, "VALIDATION_ERROR", "type"),
        ({"type": 5, "input": "Hi"}, "VALIDATION_ERROR", "type"),
        ({"type": ["inject"], "input": "Hi"}, "VALIDATION_ERROR", "type"),
        ({"type": {"type": "inject"}}, "VALIDATION_ERROR", "type"),
    ],
)
def test_frame_that_cannot_be_understood_is_told_starts_nothing_and_keeps_the_connection(
    inn: Inn, http: httpx2.Client, frame: Json, code: str, param: str
) -> None:
    with socket(inn) as connection:
        send(connection, **frame)
        error = receive(connection)["error"]
        assert (error["code"], error["param"]) == (code, param)
        assert not inn.seen
        send(connection, type=None, input="Hello")
        assert receive(connection)["type"] == "run", "a type of null is none"


def test_errors_are_told_between_the_events_of_the_turn_that_runs(inn: Inn) -> None:
    with socket(inn) as connection:
        performance, _ = begin(connection, inn, "socket errs")
        send(connection, type="inject", message="")
        assert receive(connection)["type"] == "error"
        connection.send('{"type": "inject", "message": "lone \\ud800"}')  # which is no JSON, and so may be a turn
        performance.end()
        assert receive(connection)["type"] == "done"
        assert receive(connection)["error"]["code"] == "VALIDATION_ERROR"
