"""Commands over HTTP: accepted, executed, waited for, cancelled, in batches; over every store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.handled import Journal, ask, eventually, handle, log, read
from tests.support.servers import serve_app

Json = dict[str, Any]
Served = tuple[str, Journal]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("data")
    if request.param == "sqlite":
        yield from _served(folder, {})
        return
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as url:
        yield from _served(folder, {"database_url": url})


def _served(folder: Path, settings: Json) -> Iterator[Served]:
    app = ServerBase(settings=load_settings({"data_dir": folder, **settings}))
    journal = handle(app)
    with serve_app(app) as url:
        yield url, journal


@pytest.fixture
def http(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served[0], timeout=30) as client:
        yield client


@pytest.fixture
def journal(served: Served) -> Iterator[Journal]:
    journal = served[1]
    journal.began.clear()
    journal.heard.clear()
    journal.calls.clear()
    journal.gate.clear()
    journal.was_cancelled.clear()
    yield journal
    journal.gate.set()


@pytest.fixture
def session(http: httpx2.Client) -> str:
    return str(http.post("/api/sessions", json={}).json()["session_id"])


def test_a_command_answers_at_once_and_tells_its_result_later(
    http: httpx2.Client, session: str, journal: Journal
) -> None:
    answer = ask(http, session, "Wait", wait=0, parameters={"name": "n"}, metadata={"priority": "high", "mine": [1]})
    command = answer.json()
    assert answer.status_code == 201
    assert command == {
        "command_id": command["command_id"],
        "session_id": session,
        "command_type": "Wait",
        "status": "executing",
        "result": None,
        "error": None,
        "metadata": {"priority": "high", "mine": [1]},
        "trace_id": command["trace_id"],
        "created_at": command["created_at"],
        "started_at": command["created_at"],
        "ended_at": None,
    }
    assert read(http, session, command, wait=0)["status"] == "executing"
    journal.gate.set()
    ended = read(http, session, command)
    assert (ended["status"], ended["result"]) == ("completed", "n")
    assert [(event["event_type"], event["data"].get("status")) for event in log(http, session)] == [
        ("command_accepted", None),
        ("command_ended", "completed"),
    ]


def test_waiting_answers_with_the_end(http: httpx2.Client, session: str, journal: Journal) -> None:
    told = ask(http, session, "Add", parameters={"a": 1, "b": 2}).json()
    assert (told["status"], told["result"]) == ("completed", 3)
    dummy = ask(http, session, "DummyEngineCommand", parameters={"prompt": "Hello, world!"}).json()
    assert dummy["result"] == "Dummy response to: Hello, world!"
    updates = log(http, session, "DummyEngineStatusUpdate")
    assert [event["data"]["status"] for event in updates] == ["processing", "finished"]


@pytest.mark.parametrize(
    ("command_type", "parameters", "message"),
    [
        ("Fail", {}, "The handler failed. The server's log has the reason."),
        ("Refuse", {}, "name: must not be Bob."),
        ("Add", {"a": 1}, "The parameters do not fit Add: "),
        ("Add", {"a": 1, "b": "x"}, "The handler failed."),
        ("Big", {}, "The result exceeds 1024 KiB of JSON."),
        ("Deep", {}, "Deep: "),
    ],
)
def test_a_command_that_fails_says_why_and_not_more(
    http: httpx2.Client, session: str, journal: Journal, command_type: str, parameters: Json, message: str
) -> None:
    answer = ask(http, session, command_type, parameters=parameters)
    told = answer.json()
    assert (answer.status_code, told["status"], told["result"]) == (201, "failed", None)
    assert told["error"]["code"] == "COMMAND_EXECUTION_FAILED"
    assert told["error"]["message"].startswith(message)
    assert "open-sesame" not in answer.text


def test_a_handler_runs_commands_and_publishes_events_in_its_own_session(
    http: httpx2.Client, session: str, journal: Journal
) -> None:
    assert ask(http, session, "Chain", parameters={"a": 4}).json()["result"] == 5
    eventually(lambda: log(http, session, "HandlerFailed") and len(journal.heard) == 2)
    (rung,) = log(http, session, "Ring")
    assert (rung["data"], rung["source"]) == ({"times": 5}, "handler")
    heard = {"times": 5, "sequence": rung["sequence"]}
    assert sorted(journal.heard, key=lambda one: one[0]) == [("first", heard), ("last", heard)]
    (failed,) = log(http, session, "HandlerFailed")
    assert failed["data"]["event_id"] == rung["event_id"]
    assert "breaking" in failed["data"]["handler"]
    assert "open-sesame" not in str(failed)


def test_events_that_cause_themselves_come_to_an_end(http: httpx2.Client, session: str, journal: Journal) -> None:
    http.post(f"/api/sessions/{session}/events", json={"event_type": "Tolled"}).raise_for_status()
    eventually(lambda: log(http, session, "HandlerFailed"))
    assert journal.calls["tolled"] == 17
    assert "16 deep" in log(http, session, "HandlerFailed")[0]["data"]["error"]["message"]


def test_nobody_handles_a_type_that_is_not_registered(http: httpx2.Client, session: str) -> None:
    answer = ask(http, session, "Nope")
    assert answer.status_code == 404
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("HANDLER_NOT_FOUND", "command_type")
    many = [{"command_type": "Add", "parameters": {"a": 1, "b": 1}}, {"command_type": "Nope"}]
    answer = http.post(f"/api/sessions/{session}/commands/batch", json={"commands": many})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "commands.1.command_type")
    assert log(http, session) == []


def test_a_command_that_takes_too_long_ends_as_timeout(http: httpx2.Client, session: str, journal: Journal) -> None:
    for command_type, parameters in (("Wait", {}), ("Sleep", {"seconds": 3})):
        told = ask(http, session, command_type, parameters=parameters, metadata={"timeout": 1.0}).json()
        assert (told["status"], told["error"]["code"]) == ("timeout", "COMMAND_TIMEOUT")
    assert journal.was_cancelled.is_set()


def test_a_command_is_cancelled_and_its_code_hears_of_it(http: httpx2.Client, session: str, journal: Journal) -> None:
    command = ask(http, session, "Wait", wait=0).json()
    eventually(lambda: journal.began)
    for _ in range(2):
        answer = http.post(f"/api/sessions/{session}/commands/{command['command_id']}/cancel")
        assert answer.status_code == 202
        assert read(http, session, command)["status"] == "cancelled"
    assert journal.was_cancelled.is_set()


def test_a_batch_answers_in_order_and_runs_side_by_side(http: httpx2.Client, session: str, journal: Journal) -> None:
    commands = [{"command_type": "Wait", "parameters": {"name": str(index)}} for index in range(20)]
    answer = http.post(f"/api/sessions/{session}/commands/batch", json={"commands": commands})
    assert answer.status_code == 201
    eventually(lambda: len(journal.began) == 20)
    journal.gate.set()
    told = answer.json()["commands"]
    assert [read(http, session, command)["result"] for command in told] == [str(index) for index in range(20)]


def test_a_sequence_runs_one_after_another_whatever_becomes_of_each(
    http: httpx2.Client, session: str, journal: Journal
) -> None:
    commands: list[Json] = [{"command_type": "Wait", "parameters": {"name": str(index)}} for index in range(3)]
    commands.insert(1, {"command_type": "Fail"})
    answer = http.post(f"/api/sessions/{session}/commands/batch", json={"commands": commands, "sequential": True})
    told = answer.json()["commands"]
    assert [command["status"] for command in told] == ["executing", "queued", "queued", "queued"]
    eventually(lambda: journal.began == ["0"])
    journal.gate.set()
    assert [read(http, session, command)["status"] for command in told] == [
        "completed",
        "failed",
        "completed",
        "completed",
    ]
    assert journal.began == ["0", "1", "2"]


def test_a_sequence_goes_on_one_after_another_past_one_that_is_cancelled(
    http: httpx2.Client, session: str, journal: Journal
) -> None:
    path = f"/api/sessions/{session}/commands"
    commands = [{"command_type": "Wait", "parameters": {"name": str(index)}} for index in range(3)]
    told = http.post(f"{path}/batch", json={"commands": commands, "sequential": True}).json()["commands"]
    eventually(lambda: journal.began == ["0"])
    http.post(f"{path}/{told[1]['command_id']}/cancel").raise_for_status()
    assert ask(http, session, "Add", parameters={"a": 1, "b": 2}).json()["status"] == "completed"
    assert [read(http, session, command, wait=0)["status"] for command in told] == ["executing", "cancelled", "queued"]
    journal.gate.set()
    assert [read(http, session, command)["status"] for command in told] == ["completed", "cancelled", "completed"]
    assert journal.began == ["0", "2"]


def test_a_thousand_commands_are_accepted_at_once_and_all_end(
    http: httpx2.Client, session: str, journal: Journal
) -> None:
    commands = [{"command_type": "Add", "parameters": {"a": index, "b": 1}} for index in range(1000)]
    answer = http.post(f"/api/sessions/{session}/commands/batch", json={"commands": commands})
    told = answer.json()["commands"]
    assert len({command["command_id"] for command in told}) == 1000
    eventually(lambda: journal.calls["add"] == 1000, 60)
    assert read(http, session, told[-1])["result"] == 1000
    eventually(lambda: http.get(f"/api/sessions/{session}/events").json()["total"] == 2000, 30)


def test_urgent_commands_overtake_those_that_wait(http: httpx2.Client, session: str, journal: Journal) -> None:
    crowd = [{"command_type": "Wait", "parameters": {"name": "crowd"}} for _ in range(64)]
    http.post(f"/api/sessions/{session}/commands/batch", json={"commands": crowd}).raise_for_status()
    eventually(lambda: len(journal.began) == 64)
    for priority in ("low", "normal", "high"):
        told = ask(http, session, "Wait", wait=0, parameters={"name": priority}, metadata={"priority": priority}).json()
        assert told["status"] == "queued"
    journal.gate.set()
    eventually(lambda: len(journal.began) == 67)
    assert journal.began[64:] == ["high", "normal", "low"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "command_type"),
        ({"command_type": ""}, "command_type"),
        ({"command_type": "a b"}, "command_type"),
        ({"command_type": "x" * 129}, "command_type"),
        ({"command_type": 7}, "command_type"),
        ({"command_type": "Add", "parameters": []}, "parameters"),
        ({"command_type": "Add", "metadata": {"timeout": 0.5}}, "metadata.timeout"),
        ({"command_type": "Add", "metadata": {"timeout": 601}}, "metadata.timeout"),
        ({"command_type": "Add", "metadata": {"timeout": "30"}}, "metadata.timeout"),
        ({"command_type": "Add", "metadata": {"priority": "urgent"}}, "metadata.priority"),
    ],
)
def test_what_is_wrong_with_a_command_is_named(http: httpx2.Client, session: str, body: Json, param: str) -> None:
    answer = http.post(f"/api/sessions/{session}/commands", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "VALIDATION_ERROR", param)


def test_a_batch_is_neither_empty_nor_too_long(http: httpx2.Client, session: str) -> None:
    one = {"command_type": "Add", "parameters": {"a": 1, "b": 2}}
    for commands in ([], [one] * 1001):
        answer = http.post(f"/api/sessions/{session}/commands/batch", json={"commands": commands})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "commands")
    assert log(http, session) == []


def test_unknown_things_are_not_found(http: httpx2.Client, session: str) -> None:
    for path, code in (
        (f"/api/sessions/{session}/commands/cmd_x", "COMMAND_NOT_FOUND"),
        ("/api/sessions/nope/commands/cmd_x", "SESSION_NOT_FOUND"),
    ):
        for answer in (http.get(path), http.get(path, params={"wait": 1}), http.post(f"{path}/cancel")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)
    assert ask(http, "nope", "Add").json()["error"]["code"] == "SESSION_NOT_FOUND"


def test_a_command_of_another_session_is_not_found(http: httpx2.Client, session: str, journal: Journal) -> None:
    command = ask(http, session, "Add", parameters={"a": 1, "b": 2}).json()
    other = http.post("/api/sessions", json={}).json()["session_id"]
    answer = http.get(f"/api/sessions/{other}/commands/{command['command_id']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "COMMAND_NOT_FOUND")


def test_the_same_request_again_executes_nothing(http: httpx2.Client, session: str, journal: Journal) -> None:
    path, body = f"/api/sessions/{session}/commands", {"command_type": "Add", "parameters": {"a": 2, "b": 3}}
    answers: list[httpx2.Response] = []

    def post() -> None:
        answers.append(http.post(path, json=body, params={"wait": 10}, headers={"Idempotency-Key": "k"}))

    threads = [threading.Thread(target=post) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["command_id"] for answer in answers} == {answers[0].json()["command_id"]}
    assert {answer.json()["result"] for answer in answers} == {5}
    assert sum(answer.headers.get("idempotent-replayed") == "true" for answer in answers) == 15
    assert journal.calls["add"] == 1
    other = http.post(path, json={**body, "parameters": {}}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")


def test_a_session_that_is_deleted_takes_its_commands_along(
    http: httpx2.Client, session: str, journal: Journal
) -> None:
    command = ask(http, session, "Wait", wait=0).json()
    eventually(lambda: journal.began)
    assert http.delete(f"/api/sessions/{session}").status_code == 204
    eventually(journal.was_cancelled.is_set)
    answer = http.get(f"/api/sessions/{session}/commands/{command['command_id']}")
    assert answer.json()["error"]["code"] == "SESSION_NOT_FOUND"
