"""Handlers as source code over HTTP: for commands and for events; over every store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper.core.sources import MAX_HANDLERS
from innkeeper.services import causes
from tests.support.coded import Coded, Room, coded_servers, error, running_coded

Json = dict[str, Any]

ECHO = "def handle(command): return command"


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def coded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coded]:
    folder = tmp_path_factory.mktemp("data")
    yield from coded_servers(request.param, folder, lambda: str(request.getfixturevalue("postgres_url")))


@pytest.fixture(scope="module")
def http(coded: Coded) -> Iterator[httpx2.Client]:
    """A client whose token has the scope `code`."""
    with coded.client(user="ann", scopes=["code"]) as client:
        yield client


@pytest.fixture
def room(http: httpx2.Client) -> Room:
    return Room.made(http)


def test_a_command_handler_is_registered_listed_called_and_unregistered(room: Room) -> None:
    answer = room.handle("command", "Echo", ECHO)
    handler = answer.json()
    assert answer.status_code == 201
    assert handler == {
        "handler_id": handler["handler_id"],
        "kind": "command",
        "type": "Echo",
        "session_id": room.id,
        "created_at": handler["created_at"],
    }
    assert room.ask("GET", "/handlers/commands").json() == {"handlers": [handler], "total": 1}
    told = room.command("Echo", name="Ann 🦊")
    assert told["status"] == "completed"
    assert told["result"] == {
        "command_type": "Echo",
        "parameters": {"name": "Ann 🦊"},
        "command_id": told["command_id"],
        "session_id": room.id,
        "metadata": {},
    }
    assert room.ask("DELETE", "/handlers/commands/Echo").status_code == 204
    for answer in (
        room.ask("DELETE", "/handlers/commands/Echo"),
        room.ask("POST", "/commands", json={"command_type": "Echo"}),
    ):
        assert error(answer) == (404, "HANDLER_NOT_FOUND")
    assert room.ask("GET", "/handlers/commands").json() == {"handlers": [], "total": 0}


def test_a_sessions_handler_comes_before_the_applications(http: httpx2.Client, room: Room) -> None:
    assert room.command("Greet")["result"] == "the application"
    assert room.handle("command", "Greet", "async def mine(command): return 'the session'").status_code == 201
    assert room.command("Greet")["result"] == "the session"
    assert Room.made(http).command("Greet")["result"] == "the application"
    room.ask("DELETE", "/handlers/commands/Greet")
    assert room.command("Greet")["result"] == "the application"


def test_a_second_handler_for_a_command_is_refused(http: httpx2.Client, room: Room) -> None:
    assert room.handle("command", "One", ECHO).status_code == 201
    answer = room.handle("command", "One", ECHO)
    assert (*error(answer), answer.json()["error"]["param"]) == (409, "HANDLER_CONFLICT", "command_type")
    assert Room.made(http).handle("command", "One", ECHO).status_code == 201
    assert [room.handle("event", "One", ECHO).status_code for _ in range(2)] == [201, 201]


def test_where_python_handles_a_command_of_the_session_no_source_is_taken_for_it(coded: Coded) -> None:
    with coded.client() as local, coded.client(user="root", role="admin") as admin:
        room = Room.made(local)
        coded.app.command("Mine", session_id=room.id)(lambda command: "Python")
        answer = Room(admin, room.id).handle("command", "Mine", ECHO)
        assert (*error(answer), answer.json()["error"]["param"]) == (409, "HANDLER_CONFLICT", "command_type")
        assert Room(admin, room.id).handle("event", "Mine", ECHO).status_code == 201
        assert room.command("Mine")["result"] == "Python"


def test_of_many_that_register_for_one_command_at_once_one_does(room: Room) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: room.handle("command", "One", ECHO), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 7]


def test_a_session_has_a_hundred_handlers(room: Room) -> None:
    for number in range(MAX_HANDLERS):
        assert room.handle("event", f"Type{number % 3}", ECHO).status_code == 201
    assert room.handle("command", "More", ECHO).status_code == 429
    assert room.ask("GET", "/handlers/events").json()["total"] == MAX_HANDLERS


@pytest.mark.parametrize("kind", ["command", "event"])
@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        ("def handle(:", 1, ""),
        ("\ndef handle(a, b): ...", 2, "exactly one positional parameter"),
        ("def handle(): ...", 1, "exactly one positional parameter"),
        ("handle = 3", 1, "no function"),
        ("def handle(event): yield event", 1, "yield"),
    ],
)
def test_source_that_cannot_be_registered_is_told_with_its_place(
    room: Room, kind: str, source: str, line: int, reason: str
) -> None:
    answer = room.handle(kind, "One", source)
    told = answer.json()["error"]
    assert (answer.status_code, told["code"], told["param"]) == (422, "VALIDATION_ERROR", "handler_function")
    assert told["details"]["line"] == line and told["details"]["column"] >= 1
    assert reason in told["details"]["reason"]
    assert room.ask("GET", f"/handlers/{kind}s").json()["total"] == 0


@pytest.mark.parametrize("kind", ["command", "event"])
@pytest.mark.parametrize("type", ["", "a b", "🦊", "x" * 200, 3, None])
def test_a_type_that_cannot_be_named_is_refused(room: Room, kind: str, type: Any) -> None:
    answer = room.handle(kind, type, ECHO)
    assert (*error(answer), answer.json()["error"]["param"]) == (422, "VALIDATION_ERROR", f"{kind}_type")


def test_a_command_whose_handler_raises_fails_and_says_why(room: Room) -> None:
    room.handle("command", "Fail", "def handle(command): raise ValueError('no such city')")
    told = room.command("Fail")
    assert (told["status"], told["result"]) == ("failed", None)
    assert told["error"]["code"] == "COMMAND_EXECUTION_FAILED"
    assert "ValueError: no such city" in told["error"]["message"]
    read = room.ask("GET", f"/commands/{told['command_id']}")
    assert (read.status_code, read.json()["error"]) == (200, told["error"])


def test_a_command_beyond_a_limit_fails_and_the_limit_is_named(room: Room) -> None:
    room.handle("command", "Loop", "def handle(command):\n    while True: pass")
    told = room.command("Loop")
    assert (told["status"], told["error"]["code"]) == ("failed", "COMMAND_EXECUTION_FAILED")
    assert "cpu_seconds" in str(told["error"])


def test_an_event_handler_publishes_keeps_state_and_calls_tools(room: Room) -> None:
    room.register("def tool(n): return n * 2", parameters={"n": {"type": "integer"}})
    source = """
async def handle(event):
    doubled = await call_tool('tool', {'n': event['data']['n']})
    await set_state('last', [event['sequence'], doubled])
    await publish_event('Doubled', {'n': doubled, 'source': event['source']})
"""
    assert room.handle("event", "Number", source).status_code == 201
    published = room.publish("Number", n=21)
    (doubled,) = room.eventually("Doubled")
    assert (doubled["data"], doubled["source"]) == ({"n": 42, "source": "client"}, "handler")
    room.register("def look(): return get_state('last')", "look")
    assert room.execute("look").json()["result"] == [published["sequence"], 42]


def test_a_handler_that_fails_leaves_an_event_and_stops_no_other(room: Room) -> None:
    failing = room.handle("event", "Rung", "def handle(event): raise ValueError('broken bell')").json()
    room.handle("event", "Rung", "async def handle(event): await publish_event('Heard')")
    rung = room.publish("Rung")
    room.eventually("Heard")
    (failed,) = room.eventually("HandlerFailed")
    told = failed["data"]
    assert (told["event_id"], told["event_type"], told["handler"]) == (rung["event_id"], "Rung", failing["handler_id"])
    assert told["error"]["code"] == "COMMAND_EXECUTION_FAILED"
    assert "broken bell" in told["error"]["message"]


def test_handlers_of_events_that_cause_each_other_come_to_an_end(room: Room) -> None:
    source = "async def handle(event): await publish_event('Toll', {'n': event['data']['n'] + 1})"
    room.handle("event", "Toll", source)
    room.publish("Toll", n=0)
    (failed,) = room.eventually("HandlerFailed")
    assert "16 deep" in failed["data"]["error"]["message"]
    assert [event["data"]["n"] for event in room.events("Toll")] == list(range(17))


def test_handlers_that_publish_more_and_more_come_to_an_end(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causes, "MAX_CAUSED", 60)
    source = "async def handle(event):\n    await publish_event('Toll')\n    await publish_event('Toll')"
    for _ in range(3):
        room.handle("event", "Toll", source)
    room.publish("Toll")
    room.eventually("HandlerFailed", 43)  # 63 were called, of whom 20 could publish
    failed = room.events("HandlerFailed")
    assert "called 60 times because of one" in failed[0]["data"]["error"]["message"]
    assert len(room.events("Toll")) == 1 + 20


def test_the_handlers_of_a_type_are_unregistered_together(room: Room) -> None:
    for type in ("One", "One", "Two"):
        room.handle("event", type, "async def handle(event): await publish_event('Heard')")
    assert room.ask("DELETE", "/handlers/events/One").status_code == 204
    assert [one["type"] for one in room.ask("GET", "/handlers/events").json()["handlers"]] == ["Two"]
    room.publish("One")
    room.publish("Two")
    assert len(room.eventually("Heard")) == 1
    assert error(room.ask("DELETE", "/handlers/events/One")) == (404, "HANDLER_NOT_FOUND")


def test_only_an_admin_or_the_scope_registers_and_unregisters(coded: Coded, room: Room) -> None:
    room.handle("command", "Echo", ECHO)
    room.handle("event", "Echo", ECHO)
    with coded.client(user="ann") as plain:
        seen = Room(plain, room.id)
        for kind in ("command", "event"):
            for answer in (seen.handle(kind, "Other", ECHO), seen.ask("DELETE", f"/handlers/{kind}s/Echo")):
                assert error(answer) == (403, "CODE_EXECUTION_DISABLED")
                assert answer.json()["error"]["details"]["setting"] == "code_execution"
            assert seen.ask("GET", f"/handlers/{kind}s").json()["total"] == 1
            assert error(seen.ask("DELETE", f"/handlers/{kind}s/None")) == (404, "HANDLER_NOT_FOUND")
        assert seen.command("Echo")["status"] == "completed"
    with coded.client() as local:
        assert error(Room.made(local).handle("command", "Echo", ECHO)) == (403, "CODE_EXECUTION_DISABLED")
    with coded.client(user="root", role="admin") as admin:
        assert Room.made(admin).handle("command", "Echo", ECHO).status_code == 201


def test_a_sessions_token_is_handled_for_and_does_not_register(coded: Coded, http: httpx2.Client) -> None:
    made = http.post("/api/sessions", json={}).json()
    Room(http, made["session_id"]).handle("command", "Echo", "def handle(command): return 1")
    with httpx2.Client(base_url=coded.url, headers={"X-Session-Token": made["session_token"]}, timeout=30) as guest:
        room = Room(guest, made["session_id"])
        assert room.command("Echo")["result"] == 1
        assert error(room.handle("event", "Echo", ECHO)) == (403, "CODE_EXECUTION_DISABLED")


def test_another_tenants_session_is_not_there(coded: Coded, room: Room) -> None:
    room.handle("command", "Echo", ECHO)
    with coded.client(user="bob", scopes=["code"]) as bob:
        seen = Room(bob, room.id)
        for kind in ("command", "event"):
            answers = [
                seen.handle(kind, "Other", ECHO),
                seen.ask("GET", f"/handlers/{kind}s"),
                seen.ask("DELETE", f"/handlers/{kind}s/Echo"),
            ]
            assert [error(answer) for answer in answers] == [(404, "SESSION_NOT_FOUND")] * 3


@pytest.mark.parametrize("type", ["%00", "%F0%9F%A6%8A", "%ED%A0%BD", "x" * 3000])
def test_any_type_may_be_asked_for(room: Room, type: str) -> None:
    for kind in ("commands", "events"):
        assert error(room.ask("DELETE", f"/handlers/{kind}/{type}")) == (404, "HANDLER_NOT_FOUND")


def test_where_code_is_not_executed_no_handler_is_called(tmp_path: Path) -> None:
    with running_coded(tmp_path) as coded, coded.client(user="ann", role="admin") as ann:
        room = Room.made(ann)
        room.handle("command", "Greet", "def handle(command): return 'the session'")
        room.handle("event", "Rung", "def handle(event): raise ValueError")
        assert room.command("Greet")["result"] == "the session"
    headers = {"authorization": f"Bearer {coded.tokens[0]}"}
    with (
        running_coded(tmp_path, code_execution="off") as off,
        httpx2.Client(base_url=off.url, headers=headers, timeout=30) as ann,
    ):
        room = Room(ann, room.id)
        assert room.command("Greet")["result"] == "the application"
        room.publish("Rung")
        answer = room.handle("command", "Other", ECHO)
        assert error(answer) == (403, "CODE_EXECUTION_DISABLED")
        assert answer.json()["error"]["details"] == {"setting": "code_execution"}
        assert room.ask("GET", "/handlers/commands").json()["total"] == 1
        assert room.ask("DELETE", "/handlers/events/Rung").status_code == 204
        assert room.events("HandlerFailed") == []


def test_handlers_survive_a_restart(tmp_path: Path) -> None:
    with running_coded(tmp_path) as coded, coded.client(user="ann", scopes=["code"]) as ann:
        room = Room.made(ann)
        room.handle("command", "One", "def handle(command): return 'here'")
    headers = {"authorization": f"Bearer {coded.tokens[0]}"}
    with (
        running_coded(tmp_path) as again,
        httpx2.Client(base_url=again.url, headers=headers, timeout=30) as ann,
    ):
        assert Room(ann, room.id).command("One")["result"] == "here"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/handlers/commands", {"command_type": "Again", "handler_function": ECHO}),
        ("/handlers/events", {"event_type": "Again", "handler_function": ECHO}),
        ("/tools", {"name": "again", "function_code": "def again(): return 1"}),
    ],
)
def test_the_same_request_again_registers_nothing(room: Room, path: str, body: Json) -> None:
    def post(key: str, **more: Any) -> httpx2.Response:
        return room.ask("POST", path, json={**body, **more}, headers={"Idempotency-Key": f"{room.id}{path}{key}"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(""), range(8)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(201, answers[0].text)}
    assert sum(answer.headers.get("idempotent-replayed") == "true" for answer in answers) == 7
    assert room.ask("GET", path).json()["total"] == 1
    other = post("", note="another body")
    assert error(other)[:2] == (422, "IDEMPOTENCY_MISMATCH")
    if path != "/handlers/events":  # of which there may be any number
        assert post("-another").status_code == 409
