"""Tools as source code over HTTP: registered, listed, executed, offered to agents, unregistered; over every store."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper.core.sources import MAX_TOOLS
from innkeeper.ports.sandbox import Sandbox
from innkeeper.sandbox import bubbles
from innkeeper.sandbox.process import ProcessSandbox
from innkeeper.services import source_code
from tests.support.coded import Coded, Room, coded_servers, error, limited, running_coded
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.sandboxes import opened_or_skipped

Json = dict[str, Any]

DOUBLE = "async def double(n: int, by: int = 2):\n    return n * by"
PARAMETERS: Json = {"n": {"type": "integer", "description": "A number"}}


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


# registering, listing, unregistering


def test_a_tool_is_registered_listed_executed_and_unregistered(room: Room) -> None:
    answer = room.register(DOUBLE, "double", PARAMETERS, description="Doubles 🦊.")
    tool = answer.json()
    assert answer.status_code == 201
    assert tool == {
        "name": "double",
        "description": "Doubles 🦊.",
        "parameters": {
            "type": "object",
            "properties": PARAMETERS,
            "additionalProperties": False,
            "required": ["n"],
        },
        "session_id": room.id,
        "created_at": tool["created_at"],
    }
    assert room.ask("GET", "/tools").json() == {"tools": [tool], "total": 1}
    answer = room.execute("double", n=21)
    assert (answer.status_code, answer.json()) == (200, {"tool_name": "double", "result": 42})
    assert room.ask("DELETE", "/tools/double").status_code == 204
    assert error(room.ask("DELETE", "/tools/double")) == (404, "TOOL_NOT_FOUND")
    assert error(room.execute("double", n=21)) == (404, "TOOL_NOT_FOUND")
    assert room.ask("GET", "/tools").json() == {"tools": [], "total": 0}


def test_a_whole_schema_is_kept_and_what_the_function_needs_is_required(room: Room) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "by": {"type": "integer"}},
        "required": ["by"],
        "$comment": "mine",
    }
    told = room.register(DOUBLE, "double", schema).json()["parameters"]
    assert told == {**schema, "required": ["by", "n"], "additionalProperties": False}
    assert error(room.execute("double", n=1)) == (422, "VALIDATION_ERROR")
    assert room.execute("double", n=1, by=5).json()["result"] == 5


def test_the_function_of_the_tools_name_is_called_else_the_last(room: Room) -> None:
    helped = "def double(n): return half(n) * 4\ndef half(n): return n / 2"
    assert room.register(helped, "double", PARAMETERS).status_code == 201
    assert room.execute("double", n=3).json()["result"] == 6
    assert room.register(helped, "dou-ble", PARAMETERS).status_code == 201
    assert room.execute("dou-ble", n=3).json()["result"] == 1.5


def test_source_is_parsed_and_not_executed_when_it_is_registered(room: Room) -> None:
    assert room.register("while True: pass\ndef tool(): return 1").status_code == 201
    answer = room.execute()
    assert error(answer) == (422, "COMMAND_EXECUTION_FAILED")
    assert answer.json()["error"]["details"] == {"limit": "cpu_seconds"}


def test_a_second_tool_of_a_name_is_refused(room: Room) -> None:
    assert room.register("def tool(): return 1").status_code == 201
    answer = room.register("def tool(): return 2")
    assert error(answer) == (409, "TOOL_CONFLICT")
    assert answer.json()["error"]["param"] == "name"
    assert room.execute().json()["result"] == 1


def test_of_many_that_register_one_name_at_once_one_does(room: Room) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: room.register(f"def tool(): return {n}"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 7]


def test_a_session_has_a_hundred_tools(room: Room) -> None:
    for number in range(MAX_TOOLS):
        assert room.register("def tool(): return 1", f"t{number}").status_code == 201
    assert room.register("def tool(): return 1", "more").status_code == 429
    assert room.ask("GET", "/tools").json()["total"] == MAX_TOOLS


@pytest.mark.parametrize(
    ("source", "line", "column", "reason"),
    [
        ("def tool(:\n    return 1", 1, 10, ""),
        ("def tool():\n    return 1 +", 2, 15, ""),
        ("x = 1", 1, 1, "no function"),
        ("", 1, 1, "no function"),
        ("def other(n): return n", 1, 11, "'n' of 'other' is not declared"),
        ("\n\ndef tool(a, b): return a", 3, 10, "'a' of 'tool' is not declared"),
        ("def tool(): yield 1", 1, None, "yield"),
        ("class Other: pass\nclass One(Other): pass\ndef tool(): return 1", 2, None, "inheritance"),
        ("import requests\ndef tool(): return 1", 1, None, "requests"),
        ("def tool():\n    x = 1\n    del x", 3, None, "del"),
        ("def tool(): return '\0'", 1, 21, "null"),
        ("(" * 5000, 1, None, "nested too deeply"),
    ],
)
def test_source_that_cannot_be_registered_is_told_with_its_place(
    room: Room, source: str, line: int, column: int | None, reason: str
) -> None:
    answer = room.register(source)
    told = answer.json()["error"]
    assert (answer.status_code, told["code"], told["param"]) == (422, "VALIDATION_ERROR", "function_code")
    assert told["details"]["line"] == line
    assert column is None or told["details"]["column"] == column
    assert reason in told["details"]["reason"]
    assert f"line {line}, column " in told["message"]
    assert room.ask("GET", "/tools").json()["total"] == 0


def test_a_source_that_does_not_take_what_the_tool_declares_is_refused(room: Room) -> None:
    answer = room.register("def tool(): return 1", parameters=PARAMETERS)
    assert (answer.status_code, answer.json()["error"]["details"]["line"]) == (422, 1)
    assert "has no parameter 'n'" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "a b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": 3}, "name"),
        ({"name": None}, "name"),
        ({"description": "x" * 5000}, "description"),
        ({"parameters": []}, "parameters"),
        ({"parameters": {"n": 3}}, "parameters.n"),
        ({"parameters": {"a b": {}}}, "parameters.a b"),
        ({"parameters": {"class": {}}}, "parameters.class"),
        ({"parameters": {"n": {"type": "int"}}}, "parameters.n.type"),
        ({"parameters": {"n": {"type": {}}}}, "parameters.n.type"),
        ({"parameters": {"n": {"type": []}}}, "parameters.n.type"),
        ({"parameters": {"n": {"enum": 3}}}, "parameters.n.enum"),
        ({"parameters": {"n": {"minimum": "3"}}}, "parameters.n.minimum"),
        ({"parameters": {"n": {"items": 3}}}, "parameters.n.items"),
        ({"parameters": {"type": "object", "properties": []}}, "parameters.properties"),
        ({"parameters": {"type": "object", "required": 3}}, "parameters.required"),
        ({"parameters": {"type": "object", "required": ["n"]}}, "parameters.required"),
        (
            {"parameters": {"type": "object", "properties": {"n": {"required": [3]}}}},
            "parameters.properties.n.required",
        ),
        ({"parameters": {"n": {"description": "x" * 70_000}}}, "parameters"),
        ({"function_code": 3}, "function_code"),
        ({"function_code": "def tool(): ...\n" + "#" * 1_000_000}, "function_code"),
    ],
)
def test_what_is_wrong_with_a_tool_is_named(room: Room, fields: Json, param: str) -> None:
    answer = room.ask("POST", "/tools", json={"name": "tool", "function_code": "def tool(): return 1", **fields})
    assert (*error(answer), answer.json()["error"]["param"]) == (422, "VALIDATION_ERROR", param)
    assert room.ask("GET", "/tools").json()["total"] == 0


def test_a_body_beyond_a_megabyte_is_refused(room: Room) -> None:
    assert error(room.register("#" * 2_000_000)) == (413, "PAYLOAD_TOO_LARGE")


def test_a_schema_that_is_nested_too_deeply_is_refused(room: Room) -> None:
    deep: Json = {}
    for _ in range(50):
        deep = {"items": deep}
    answer = room.register("def tool(n): return n", parameters={"n": deep})
    assert error(answer) == (422, "VALIDATION_ERROR")
    assert "16 deep" in answer.json()["error"]["message"]


# executing


@pytest.mark.parametrize(
    ("schema", "value", "told"),
    [
        ({"type": "integer"}, "3", "must be of type integer"),
        ({"type": "integer"}, True, "must be of type integer"),
        ({"type": "integer"}, 1.5, "must be of type integer"),
        ({"type": ["string", "null"]}, 3, "must be of type string or null"),
        ({"type": "object", "required": ["a"]}, {}, "is required"),
        ({"type": "array", "items": {"type": "string"}}, ["a", 3], "must be of type string"),
        ({"enum": ["a", 1]}, True, 'must be one of ["a",1]'),
        ({"const": 3}, 4, "must be 3"),
        ({"type": "number", "minimum": 1}, 0.5, "must be at least 1"),
        ({"maxLength": 2}, "abc", "must have at most 2 characters"),
        ({"maxItems": 1}, [1, 2], "must have at most 1 items"),
        ({"properties": {"a": {"properties": {"b": {"type": "null"}}}}}, {"a": {"b": 1}}, "must be of type null"),
    ],
)
def test_arguments_that_do_not_fit_are_named(room: Room, schema: Json, value: Any, told: str) -> None:
    assert room.register("def tool(n): return n", parameters={"n": schema}).status_code == 201
    answer = room.execute(n=value)
    assert error(answer) == (422, "VALIDATION_ERROR")
    assert answer.json()["error"]["param"].startswith("arguments.n")
    assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize("value", [0, -1.5, "ü🦊\n", None, [], {}, True, [{"a": [None, 10**20]}], 2.0])
def test_arguments_arrive_and_return_as_they_are(room: Room, value: Any) -> None:
    assert room.register("def tool(n): return n", parameters={"n": {}}).status_code == 201
    assert room.execute(n=value).json()["result"] == value


def test_missing_and_unknown_arguments_are_named(room: Room) -> None:
    room.register(DOUBLE, "double", PARAMETERS)
    for arguments, param in (({}, "n"), ({"n": 1, "x": 2}, "x"), ({"n": 1, "by": 2}, "by")):
        answer = room.execute("double", **arguments)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, f"arguments.{param}")
    answer = room.ask("POST", "/tools/double/execute", json={"arguments": [1]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "arguments")


def test_a_tool_that_raises_is_told_with_what_it_said(room: Room) -> None:
    room.register("def tool(): raise ValueError('no such city: ü')")
    answer = room.execute()
    assert error(answer) == (422, "COMMAND_EXECUTION_FAILED")
    assert "ValueError: no such city: ü" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("source", "limit"),
    [
        ("def tool():\n    while True: pass", "cpu_seconds"),
        ("def tool(): return tool()", "recursion"),
        ("def tool():\n    items = []\n    while True: items.append('x' * 1000)", "memory"),
        ("def tool():\n    for _ in range(100): print('x' * 10 ** 6)", "output"),
        ("def tool(): return 'x' * 10 ** 7", "output"),
        ("def tool():\n    while True: get_state('a')", "calls"),
        ("import asyncio\nasync def tool(): await asyncio.sleep(10 ** 6)", "wall_seconds"),
    ],
)
def test_a_tool_beyond_a_limit_is_ended_and_the_limit_named(coded: Coded, room: Room, source: str, limit: str) -> None:
    assert room.register(source).status_code == 201
    times = {"cpu_seconds": 20.0, "wall_seconds": 60.0}  # a busy machine needs them to come to any other limit
    with limited(coded, **(times | {limit: 1.0} if limit in times else times)):
        answer = room.execute()
    assert error(answer) == (422, "COMMAND_EXECUTION_FAILED")
    assert answer.json()["error"]["details"] == {"limit": limit}
    room.register("def honest(): return 'here'", "honest")
    assert room.execute("honest").json()["result"] == "here"


def test_a_tool_publishes_events_calls_tools_and_keeps_state(room: Room) -> None:
    room.register(DOUBLE, "double", PARAMETERS)
    source = """
async def tool():
    told = await publish_event('Told', {'a': [1]}, {'m': 'n'})
    doubled = await call_tool('double', {'n': 4})
    before = await get_state('count')
    await set_state('count', (before or 0) + doubled)
    return [told['sequence'], doubled, await get_state('count')]
"""
    assert room.register(source).status_code == 201
    assert [room.execute().json()["result"] for _ in range(2)] == [[1, 8, 8], [2, 8, 16]]
    events = room.events("Told")
    assert [(one["data"], one["metadata"], one["source"]) for one in events] == [
        ({"a": [1]}, {"m": "n"}, "handler")
    ] * 2


def test_state_is_the_sessions_own(http: httpx2.Client, room: Room) -> None:
    other = Room.made(http)
    source = "def tool(value=None):\n    if value: set_state('a', value)\n    return get_state('a')"
    for one in (room, other):
        one.register(source, parameters={"value": {}})
    assert room.execute(value="mine").json()["result"] == "mine"
    assert other.execute().json()["result"] is None


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("publish_event('run_ended')", "by the server alone"),
        ("publish_event('a b')", "event_type"),
        ("publish_event(3)", "event_type: must be a text"),
        ("publish_event('T', [1])", "data: must be a dict"),
        ("publish_event('T', {}, 'x')", "metadata: must be a dict"),
        ("publish_event('T', {'x': 'y' * 300000})", "at most 256 KiB"),
        ("publish_event()", "publish_event: missing a required argument"),
        ("publish_event('T', session_id='other')", "publish_event: got an unexpected keyword argument"),
        ("call_tool('none')", "Tool 'none' is not registered"),
        ("call_tool('double')", "arguments.n: is required"),
        ("call_tool('double', [1])", "arguments: must be a dict"),
        ("call_tool('tool')", "Tools may call tools 3 deep"),
        ("get_state('')", "1 to 128 characters"),
        ("get_state('x' * 129)", "1 to 128 characters"),
        ("get_state(3)", "1 to 128 characters"),
        ("set_state('a', 'x' * 70000)", "at most 64 KiB"),
    ],
)
def test_what_code_may_not_ask_is_told_to_it(room: Room, call: str, told: str) -> None:
    room.register(DOUBLE, "double", PARAMETERS)
    assert room.register(f"def tool(): return {call}").status_code == 201
    answer = room.execute()
    assert error(answer) == (422, "COMMAND_EXECUTION_FAILED")
    assert told in answer.json()["error"]["message"]
    assert "SourceCode" not in answer.text


def test_a_session_keeps_a_thousand_values(room: Room) -> None:
    source = "def tool(first):\n    for n in range(first, first + 500): set_state('n' + str(n), n)"
    room.register(source, parameters={"first": {"type": "integer"}})
    assert [room.execute(first=first).status_code for first in (0, 500, 0, 1000)] == [200, 200, 200, 422]


# the session's agents


def test_a_tool_is_offered_to_the_sessions_agents_with_a_model(coded: Coded, http: httpx2.Client, room: Room) -> None:
    room.register(DOUBLE, "double", PARAMETERS)
    body = {"agent_name": "scripted", "session_id": room.id}
    told = http.post("/chat", json={**body, "input": 'call double {"n": 21}\ncall own'}).json()
    assert "double returned 42." in told["output"] and "own returned mine." in told["output"]
    call, result = [(one["data"]) for one in room.events() if one["data"].get("tool_name") == "double"]
    assert call["arguments"] == {"n": 21}
    assert result["result"] == 42
    told = http.post("/chat", json={**body, "input": 'call double {"n": "x"}'}).json()
    assert "arguments.n: must be of type integer" in told["output"]
    assert http.post("/chat", json={**body, "agent_name": "deaf", "input": "hi"}).json()["output"] == "nothing"


def test_other_sessions_and_later_runs_are_not_offered_it(http: httpx2.Client, room: Room) -> None:
    room.register(DOUBLE, "double", PARAMETERS)
    other = Room.made(http)
    call = {"agent_name": "scripted", "input": 'call double {"n": 21}'}

    def output(session_id: str) -> str:
        return str(http.post("/chat", json={**call, "session_id": session_id}).json()["output"])

    assert "returned 42" not in output(other.id)
    assert "returned 42" in output(room.id)
    room.ask("DELETE", "/tools/double")
    assert "returned 42" not in output(room.id)


def test_allowed_tools_narrow_those_of_the_session(http: httpx2.Client, room: Room) -> None:
    room.register(DOUBLE, "double", PARAMETERS)
    body = {
        "model": "scripted",
        "messages": [{"role": "user", "content": 'call double {"n": 21}'}],
        "metadata": {"session_id": room.id, "allowed_tools": ["own"]},
    }
    assert "returned 42" not in http.post("/v1/chat/completions", json=body).text


# who may do what


def test_only_registration_needs_the_scope(coded: Coded, room: Room) -> None:
    room.register("def tool(): return 1")
    with coded.client(user="ann") as plain:
        seen = Room(plain, room.id)
        for answer in (seen.register("def other(): return 1", "other"), seen.ask("DELETE", "/tools/tool")):
            assert error(answer) == (403, "CODE_EXECUTION_DISABLED")
            assert answer.json()["error"]["details"] == {"setting": "code_execution", "scope": "code"}
        assert seen.ask("GET", "/tools").json()["total"] == 1
        assert seen.execute().json()["result"] == 1
        assert error(seen.execute("none")) == (404, "TOOL_NOT_FOUND")
        assert error(seen.ask("DELETE", "/tools/none")) == (404, "TOOL_NOT_FOUND")


def test_an_admin_needs_no_scope(coded: Coded) -> None:
    with coded.client(user="root", role="admin") as admin:
        room = Room.made(admin)
        assert room.register("def tool(): return 1").status_code == 201
        assert room.execute().json()["result"] == 1


def test_a_token_that_only_reads_lists_and_does_no_more(coded: Coded, room: Room) -> None:
    room.register("def tool(): return 1")
    with coded.client(user="ann", role="read") as reader:
        seen = Room(reader, room.id)
        assert seen.ask("GET", "/tools").json()["total"] == 1
        for answer in (seen.execute(), seen.register("def other(): return 1"), seen.ask("DELETE", "/tools/tool")):
            assert error(answer) == (403, "FORBIDDEN")


def test_the_local_user_lists_and_executes_and_does_not_register(coded: Coded) -> None:
    with coded.client() as local:
        room = Room.made(local)
        assert error(room.register("def tool(): return 1")) == (403, "CODE_EXECUTION_DISABLED")
        assert room.ask("GET", "/tools").json() == {"tools": [], "total": 0}
        assert error(room.execute("none")) == (404, "TOOL_NOT_FOUND")


def test_a_sessions_token_executes_and_does_not_register(coded: Coded, http: httpx2.Client) -> None:
    made = http.post("/api/sessions", json={}).json()
    Room(http, made["session_id"]).register("def tool(): return 1")
    with httpx2.Client(base_url=coded.url, headers={"X-Session-Token": made["session_token"]}, timeout=30) as guest:
        room = Room(guest, made["session_id"])
        assert room.execute().json()["result"] == 1
        assert error(room.register("def other(): return 1", "other")) == (403, "CODE_EXECUTION_DISABLED")
        assert error(room.ask("DELETE", "/tools/tool")) == (403, "CODE_EXECUTION_DISABLED")


def test_another_tenants_session_is_not_there(coded: Coded, room: Room) -> None:
    room.register("def tool(): return 'secret'")
    with coded.client(user="bob", scopes=["code"]) as bob:
        seen = Room(bob, room.id)
        answers = [
            seen.ask("GET", "/tools"),
            seen.execute(),
            seen.register("def other(): return 1"),
            seen.ask("DELETE", "/tools/tool"),
        ]
        assert [error(answer) for answer in answers] == [(404, "SESSION_NOT_FOUND")] * 4
    assert room.execute().json()["result"] == "secret"


def test_an_admin_acts_in_any_session(coded: Coded, room: Room) -> None:
    room.register("def tool(): return 'theirs'")
    with coded.client(user="root", role="admin") as admin:
        seen = Room(admin, room.id)
        assert seen.execute().json()["result"] == "theirs"
        assert seen.register("def other(): return 1", "other").status_code == 201
        assert seen.ask("DELETE", "/tools/tool").status_code == 204
    assert [tool["name"] for tool in room.ask("GET", "/tools").json()["tools"]] == ["other"]


def test_tools_go_with_their_session(http: httpx2.Client) -> None:
    room = Room.made(http, session_id="again")
    room.register("def tool(): return 1")
    assert room.ask("DELETE", "").status_code == 204
    assert error(room.execute()) == (404, "SESSION_NOT_FOUND")
    room = Room.made(http, session_id="again")
    assert room.ask("GET", "/tools").json()["total"] == 0


@pytest.mark.parametrize("name", ["%00", "%F0%9F%A6%8A", "%ED%A0%BD", "a%2Fb", "x" * 3000])
def test_any_name_may_be_asked_for(room: Room, name: str) -> None:
    for method, path in (("POST", f"/tools/{name}/execute"), ("DELETE", f"/tools/{name}")):
        answer = room.ask(method, path, json={} if method == "POST" else None)
        assert answer.status_code in (400, 404, 405), answer.text


# other servers


def test_everyone_needs_a_token_where_the_server_says_so(tmp_path: Path) -> None:
    with running_coded(tmp_path, force_auth=True) as coded, coded.client(user="ann", scopes=["code"]) as ann:
        room = Room.made(ann)
        assert room.register("def tool(): return 1").status_code == 201
        with coded.client() as nobody:
            assert error(Room(nobody, room.id).execute()) == (401, "UNAUTHORIZED")
            assert error(Room(nobody, room.id).register("def a(): ...")) == (401, "UNAUTHORIZED")


def test_where_code_is_not_executed_nothing_is_registered_and_nothing_runs(tmp_path: Path) -> None:
    with running_coded(tmp_path) as coded, coded.client(user="ann", role="admin") as ann:
        room = Room.made(ann)
        room.register("def tool(): return 1")
    token = coded.tokens[0]
    with running_coded(tmp_path, code_execution="off") as off:
        headers = {"authorization": f"Bearer {token}"}
        with httpx2.Client(base_url=off.url, headers=headers, timeout=30) as ann, off.client() as local:
            seen, theirs = Room(ann, room.id), Room.made(local)
            refused = (seen.register("def other(): return 1", "other"), seen.execute(), theirs.register("x"))
            for answer in refused:
                assert error(answer) == (403, "CODE_EXECUTION_DISABLED")
                assert answer.json()["error"]["details"] == {"setting": "code_execution"}
            assert error(theirs.execute("none")) == (404, "TOOL_NOT_FOUND")
            assert [tool["name"] for tool in seen.ask("GET", "/tools").json()["tools"]] == ["tool"]
            call = {"agent_name": "scripted", "session_id": room.id, "input": "call tool"}
            assert "returned 1" not in ann.post("/chat", json=call).text
            assert seen.ask("DELETE", "/tools/tool").status_code == 204


def test_tools_and_state_survive_a_restart(tmp_path: Path) -> None:
    with running_coded(tmp_path) as coded, coded.client(user="ann", scopes=["code"]) as ann:
        room = Room.made(ann)
        room.register("def tool():\n    set_state('n', (get_state('n') or 0) + 1)\n    return get_state('n')")
        assert room.execute().json()["result"] == 1
    with running_coded(tmp_path) as again:
        headers = {"authorization": f"Bearer {coded.tokens[0]}"}
        with httpx2.Client(base_url=again.url, headers=headers, timeout=30) as ann:
            assert Room(ann, room.id).execute().json()["result"] == 2


def test_a_tool_is_seen_by_another_process_on_one_database(tmp_path: Path, postgres_url: str) -> None:
    with (
        a_copy_of(a_migrated_database(postgres_url), postgres_url) as url,
        running_coded(tmp_path / "one", database_url=url) as one,
        running_coded(tmp_path / "two", database_url=url) as two,
        one.client(user="ann", scopes=["code"]) as ann,
    ):
        room = Room.made(ann)
        room.register("def tool(): return 'seen'")
        with httpx2.Client(base_url=two.url, headers=ann.headers, timeout=30) as there:
            assert Room(there, room.id).execute().json()["result"] == "seen"
            call = {"agent_name": "scripted", "session_id": room.id, "input": "call tool"}
            assert "seen" in there.post("/chat", json=call).json()["output"]
            Room(there, room.id).ask("DELETE", "/tools/tool").raise_for_status()
        assert error(room.execute()) == (404, "TOOL_NOT_FOUND")


def test_the_process_sandbox_serves_the_same_routes(tmp_path: Path) -> None:
    asyncio.run(_opened_and_closed(ProcessSandbox(1)))
    with (
        running_coded(tmp_path, code_execution="process") as coded,
        coded.client(user="ann", scopes=["code"]) as ann,
    ):
        room = Room.made(ann)
        inherited = "import os\nclass A: pass\nclass B(A): pass\ndef tool(n): return [n * 2, dict(os.environ)]"
        assert room.register(inherited, parameters=PARAMETERS).json()["parameters"]["required"] == ["n"]
        assert room.execute(n=21).json()["result"] == [42, {}]
        room.register("async def outer():\n    return (await call_tool('tool', {'n': 1}))[0]", "outer")
        assert room.execute("outer").json()["result"] == 2
        answer = room.register("def broken(:", "broken")
        assert (*error(answer), answer.json()["error"]["details"]["column"]) == (422, "VALIDATION_ERROR", 12)
        room.handle("event", "Toll", "def handle(event): publish_event('Toll', {'n': event['data']['n'] + 1})")
        room.publish("Toll", n=0)
        assert "16 deep" in room.eventually("HandlerFailed")[0]["data"]["error"]["message"]


async def _opened_and_closed(sandbox: Sandbox) -> None:
    await opened_or_skipped(sandbox)
    await sandbox.close()


def test_calls_that_wait_for_the_sandbox_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_code, "CALLS_OF_ONE", 2)
    with (
        running_coded(tmp_path) as coded,
        coded.client(user="ann", scopes=["code"]) as ann,
        coded.client(user="bob", scopes=["code"]) as bob,
        ThreadPoolExecutor(3) as threads,
    ):
        rooms = [Room.made(ann), Room.made(bob)]
        for room in rooms:
            room.register("import time\ndef tool():\n    time.sleep(0.5)\n    return 1").raise_for_status()
        asked = [threads.submit(rooms[0].execute) for _ in range(3)]
        assert rooms[1].execute().json()["result"] == 1
        answers = [one.result() for one in asked]
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
        (refused,) = (answer for answer in answers if answer.status_code == 429)
        assert error(refused) == (429, "RATE_LIMITED")
        assert refused.headers["retry-after"]
        assert rooms[0].execute().json()["result"] == 1


def test_nothing_is_told_of_why_a_sandbox_cannot_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_opened_and_closed(ProcessSandbox(1)))
    programs, has_been = tmp_path / "programs", tmp_path / "programs/has-been"
    programs.mkdir()
    fake = programs / "bwrap"
    fake.write_text(
        f"#!/bin/sh\nif [ -e {has_been} ]; then echo 'bwrap: no {tmp_path}' >&2; exit 1; fi\n"
        f'touch {has_been}\nexec {bubbles.find()} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    with (
        running_coded(tmp_path / "data", code_execution="process") as coded,
        coded.client(user="ann", scopes=["code"]) as ann,
    ):
        room = Room.made(ann)
        assert room.register("def tool(): return 1").status_code == 201
        assert room.handle("command", "Do", "def handle(command): return 1").status_code == 201
        assert room.execute().json()["result"] == 1
        for pid in _bubbles():
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while _bubbles():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        told = room.execute()
        assert error(told) == (500, "INTERNAL_ERROR")
        failed = room.command("Do")
        assert failed["status"] == "failed"
        chat = {"agent_name": "scripted", "input": "call tool {}", "session_id": room.id}
        said = ann.post("/chat", json=chat).text
        assert "The tool failed" in said
        assert str(tmp_path) not in f"{told.text}{failed}{said}{room.events()}"


def _bubbles() -> list[int]:
    """Those that this process has started and that live."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, *_ = folder.joinpath("stat").read_text().rpartition(")")[2].split()
            is_bubble = b"--unshare-user" in folder.joinpath("cmdline").read_bytes()
            if int(parent) == os.getpid() and is_bubble and state != "Z":
                found.append(int(folder.name))
    return found
