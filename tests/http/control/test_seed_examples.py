"""The control plane's document, word for word: each request that it prints, over every store, and what it promises.

The bodies are those of the document, with ids in place of its placeholders. What it prints of an answer has to be
there; beyond that, other tests say what each route does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import Request

from innkeeper import DummyEngineCommand, DummyEngineStatusUpdate, ServerBase, bus
from innkeeper.config import load_settings
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.inns import Inn, running_inn, serve_inn
from tests.support.tokens import a_token

Json = dict[str, Any]
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
WEATHER = {
    "name": "get_weather",
    "description": "Get weather information for a location",
    "parameters": {"location": {"type": "string", "description": "City name"}},
    "function_code": "async def get_weather(location: str): ...",
}
SETTINGS: Json = {"force_auth": True, "code_execution": "monty"}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def inn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    folder = tmp_path_factory.mktemp("data")
    if request.param == "sqlite":
        with running_inn(folder, **SETTINGS) as running:
            yield running
        return
    server = request.getfixturevalue("postgres_url")
    with (
        a_copy_of(a_migrated_database(server), server) as url,
        running_inn(folder, database_url=url, **SETTINGS) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def api_key(inn: Inn) -> str:
    return a_token(inn.app.kernel.settings, "ann", "admin", scopes=["code"]).text


@pytest.fixture
def http(inn: Inn, api_key: str) -> Iterator[httpx2.Client]:
    """`Authorization: Bearer your-api-key-here`."""
    headers = {"Authorization": f"Bearer {api_key}"}
    with httpx2.Client(base_url=inn.url, timeout=20, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def session_id(http: httpx2.Client) -> str:
    return str(http.post("/api/sessions", json={}).json()["session_id"])


def told(answer: httpx2.Response, status: int) -> Json:
    assert answer.status_code == status, answer.text
    body: Json = answer.json()
    return body


def refused(answer: httpx2.Response, status: int, code: str) -> Json:
    """The one body of errors. Returns what is in `error`."""
    body = told(answer, status)
    error: Json = body["error"]
    assert error["code"] == code
    assert error["message"] and isinstance(error["details"], dict)
    assert INSTANT.fullmatch(body["timestamp"])
    assert body["request_id"] == answer.headers["x-request-id"]
    return error


def test_sessions(http: httpx2.Client) -> None:
    metadata = {"user_id": "user123", "project": "my-project"}
    made = told(http.post("/api/sessions", json={"name": "optional-session-name", "metadata": metadata}), 201)
    assert made["session_id"] and made["status"] == "active"
    assert INSTANT.fullmatch(made["created_at"])
    found = told(http.get(f"/api/sessions/{made['session_id']}"), 200)
    assert (found["status"], found["name"], found["metadata"]) == ("active", "optional-session-name", metadata)
    assert http.delete(f"/api/sessions/{made['session_id']}").status_code == 204
    refused(http.get(f"/api/sessions/{made['session_id']}"), 404, "SESSION_NOT_FOUND")


def test_commands(http: httpx2.Client, session_id: str) -> None:
    body = {
        "command_type": "DummyEngineCommand",
        "parameters": {"prompt": "Hello, world!"},
        "metadata": {"priority": "high", "timeout": 30},
    }
    command = told(http.post(f"/api/sessions/{session_id}/commands", json=body), 201)
    assert (command["status"], command["result"], command["error"]) == ("executing", None, None)
    assert INSTANT.fullmatch(command["created_at"])
    path = f"/api/sessions/{session_id}/commands/{command['command_id']}"
    ended = told(http.get(path, params={"wait": 10}), 200)
    assert (ended["status"], ended["result"]) == ("completed", "Dummy response to: Hello, world!")
    assert told(http.get(path), 200) == ended


def test_batches_of_commands(http: httpx2.Client, session_id: str) -> None:
    batch = {
        "commands": [
            {"command_type": "DummyEngineCommand", "parameters": {"prompt": "First command"}},
            {"command_type": "DummyEngineCommand", "parameters": {"prompt": "Second command"}},
        ]
    }
    accepted = told(http.post(f"/api/sessions/{session_id}/commands/batch", json=batch), 201)["commands"]
    results = []
    for command in accepted:
        path = f"/api/sessions/{session_id}/commands/{command['command_id']}"
        results.append(told(http.get(path, params={"wait": 10}), 200)["result"])
    assert results == ["Dummy response to: First command", "Dummy response to: Second command"]


def test_events(http: httpx2.Client, session_id: str) -> None:
    body = {
        "event_type": "DummyEngineStatusUpdate",
        "data": {"status": "processing"},
        "metadata": {"source": "engine", "priority": "normal"},
    }
    event = told(http.post(f"/api/sessions/{session_id}/events", json=body), 201)
    assert {name: event[name] for name in body} == body
    other = told(http.post(f"/api/sessions/{session_id}/events", json={"event_type": "StatusUpdate"}), 201)
    query = "limit=50&offset=0&event_type=StatusUpdate"
    assert told(http.get(f"/api/sessions/{session_id}/events?{query}"), 200) == {"events": [other], "total": 1}
    assert told(http.get(f"/api/sessions/{session_id}/events/{event['event_id']}"), 200) == event


def test_engines(http: httpx2.Client, session_id: str) -> None:
    body = {
        "engine_type": "DummyEngine",
        "model_name": "gpt-4",
        "session_id": session_id,
        "configuration": {"temperature": 0.7, "max_tokens": 1000},
    }
    engine = told(http.post("/api/engines", json=body), 201)
    assert (engine["engine_type"], engine["status"], engine["session_id"]) == ("DummyEngine", "initialized", session_id)
    assert INSTANT.fullmatch(engine["created_at"])
    path = f"/api/engines/{engine['engine_id']}"
    assert told(http.get(path), 200) == engine
    for status, expected in (("initialized", [engine]), ("active", [])):
        listed = told(http.get(f"/api/engines?session_id={session_id}&status={status}"), 200)
        assert listed["engines"] == expected
    said = {"prompt": "Hello, world!", "parameters": {"temperature": 0.7}}
    answer = told(http.post(f"{path}/execute", json=said), 200)
    assert (answer["engine_id"], answer["result"]) == (engine["engine_id"], "Dummy response to: Hello, world!")
    assert http.delete(path).status_code == 204
    refused(http.get(path), 404, "ENGINE_NOT_FOUND")


def test_tools(http: httpx2.Client, session_id: str) -> None:
    tools = f"/api/sessions/{session_id}/tools"
    tool = told(http.post(tools, json=WEATHER), 201)
    assert (tool["name"], tool["description"]) == (WEATHER["name"], WEATHER["description"])
    assert told(http.get(tools), 200)["tools"] == [tool]
    answer = told(http.post(f"{tools}/get_weather/execute", json={"arguments": {"location": "Melbourne"}}), 200)
    assert answer == {"tool_name": "get_weather", "result": None}
    assert http.delete(f"{tools}/get_weather").status_code == 204
    assert told(http.get(tools), 200)["tools"] == []


def test_handlers(http: httpx2.Client, session_id: str) -> None:
    handlers = f"/api/sessions/{session_id}/handlers"
    command = {
        "command_type": "DummyEngineCommand",
        "handler_function": "async def handle_dummy_command(command): ...",
    }
    event = {
        "event_type": "DummyEngineStatusUpdate",
        "handler_function": "async def handle_status_update(event): ...",
    }
    told(http.post(f"{handlers}/commands", json=command), 201)
    told(http.post(f"{handlers}/events", json=event), 201)
    assert http.delete(f"{handlers}/commands/DummyEngineCommand").status_code == 204
    assert http.delete(f"{handlers}/events/DummyEngineStatusUpdate").status_code == 204
    refused(http.delete(f"{handlers}/commands/DummyEngineCommand"), 404, "HANDLER_NOT_FOUND")


def test_observability(http: httpx2.Client, session_id: str) -> None:
    body = {
        "level": "info",
        "message": "User action completed",
        "metadata": {"user_id": "user123", "action": "command_execution"},
    }
    record = told(http.post("/api/observability/logs", json=body), 201)
    assert {name: record[name] for name in body} == body
    about = told(http.post("/api/observability/logs", json={**body, "session_id": session_id}), 201)
    logs = told(http.get(f"/api/observability/logs?level=info&session_id={session_id}&limit=100"), 200)["logs"]
    assert about in logs and record not in logs
    assert told(http.get(f"/api/observability/metrics?session_id={session_id}"), 200)
    command = {"command_type": "DummyEngineCommand", "parameters": {"prompt": "Hello"}}
    ended = told(http.post(f"/api/sessions/{session_id}/commands?wait=10", json=command), 201)
    trace = told(http.get(f"/api/observability/traces/{ended['trace_id']}"), 200)
    assert trace["trace_id"] == ended["trace_id"]


def test_system(http: httpx2.Client) -> None:
    health = told(http.get("/api/health"), 200)
    assert health["status"] == "healthy" and health["version"]
    assert INSTANT.fullmatch(health["timestamp"])
    assert health["uptime"] >= 0
    assert told(http.get("/api/status"), 200)["status"] == "running"
    assert told(http.get("/api/config"), 200)["server"]["port"] == 8000
    for page in ("/docs", "/redoc", "/openapi.json"):
        assert http.get(page).status_code == 200, page


def test_session_tokens(inn: Inn, http: httpx2.Client) -> None:
    made = told(http.post("/api/sessions", json={}), 201)
    headers = {"X-Session-Token": made["session_token"]}
    with httpx2.Client(base_url=inn.url, timeout=20, headers=headers, trust_env=False) as guest:
        assert told(guest.get(f"/api/sessions/{made['session_id']}"), 200)["session_id"] == made["session_id"]
        refused(guest.get("/api/sessions"), 403, "FORBIDDEN")
    with httpx2.Client(base_url=inn.url, timeout=20, trust_env=False) as stranger:
        refused(stranger.get(f"/api/sessions/{made['session_id']}"), 401, "UNAUTHORIZED")


def test_common_errors(http: httpx2.Client, session_id: str) -> None:
    session = f"/api/sessions/{session_id}"
    engine = told(http.post("/api/engines", json={"engine_type": "DummyEngine"}), 201)["engine_id"]
    error = refused(http.post(f"/api/engines/{engine}/execute", json={"parameters": {}}), 422, "VALIDATION_ERROR")
    assert error["details"]["field"] == "prompt"
    assert error["details"]["issue"] == "Field required"
    refused(http.get("/api/sessions/uuid-session-id"), 404, "SESSION_NOT_FOUND")
    refused(http.get("/api/engines/uuid-engine-id"), 404, "ENGINE_NOT_FOUND")
    broken = {"name": "break_it", "function_code": "def break_it():\n    raise ValueError('no')"}
    told(http.post(f"{session}/tools", json=broken), 201)
    refused(http.post(f"{session}/tools/break_it/execute", json={}), 422, "COMMAND_EXECUTION_FAILED")
    refused(http.post(f"{session}/tools/no_tool/execute", json={}), 404, "TOOL_NOT_FOUND")
    refused(http.post(f"{session}/commands", json={"command_type": "NobodysCommand"}), 404, "HANDLER_NOT_FOUND")


def test_a_command_that_fails_says_so_in_its_own_error(http: httpx2.Client, session_id: str) -> None:
    source = "async def handle(command):\n    raise ValueError('no')"
    body = {"command_type": "DummyEngineCommand", "handler_function": source}
    told(http.post(f"/api/sessions/{session_id}/handlers/commands", json=body), 201)
    command = {"command_type": "DummyEngineCommand", "parameters": {"prompt": "Hello"}}
    ended = told(http.post(f"/api/sessions/{session_id}/commands?wait=10", json=command), 201)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "COMMAND_EXECUTION_FAILED")


def test_a_fault_of_the_server_is_an_internal_error_and_says_no_more(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))

    @app.agent.before_request(required=True)
    async def check(request: Request) -> None:
        raise RuntimeError("the secret is open-sesame")

    with serve_inn(app) as inn, httpx2.Client(base_url=inn.url, timeout=20, trust_env=False) as http:
        engine = told(http.post("/api/engines", json={"engine_type": "DummyEngine"}), 201)["engine_id"]
        answer = http.post(f"/api/engines/{engine}/execute", json={"prompt": "Hello"})
        refused(answer, 500, "INTERNAL_ERROR")
        assert "open-sesame" not in answer.text


async def test_migration_before(tmp_path: Path) -> None:
    """On the loop of an app of its own, as in a program that has the bus."""
    heard: list[str] = []

    async def handle_command(command: DummyEngineCommand) -> str:
        return f"mine: {command.prompt}"

    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
    async with app.router.lifespan_context(app):
        app.event(DummyEngineStatusUpdate)(lambda event: heard.append(event.status))
        bus.register_command_handler(DummyEngineCommand, handle_command, "bus")
        try:
            result = await bus.execute(DummyEngineCommand(prompt="Hello"))
            await bus.publish(DummyEngineStatusUpdate(status="processing"))
        finally:
            bus.unregister_command_handler(DummyEngineCommand, "bus")
    assert result == "mine: Hello"
    assert heard == ["processing"]


def test_migration_after(http: httpx2.Client, session_id: str) -> None:
    response = http.post(
        f"/api/sessions/{session_id}/handlers/commands",
        json={
            "command_type": "DummyEngineCommand",
            "handler_function": "async def handle_command(command): ...",
        },
    )
    told(response, 201)
    response = http.post(
        f"/api/sessions/{session_id}/commands",
        json={"command_type": "DummyEngineCommand", "parameters": {"prompt": "Hello"}},
    )
    command = told(response, 201)
    ended = told(http.get(f"/api/sessions/{session_id}/commands/{command['command_id']}?wait=10"), 200)
    assert (ended["status"], ended["result"]) == ("completed", None)
    response = http.post(
        f"/api/sessions/{session_id}/events",
        json={"event_type": "DummyEngineStatusUpdate", "data": {"status": "processing"}},
    )
    assert told(response, 201)["data"] == {"status": "processing"}
