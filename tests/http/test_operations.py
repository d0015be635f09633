"""The operator's routes: agents made anew and looked at, prompts, and what needs a server of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper import Agent, ServerBase, Settings, load_settings
from tests.support.inns import UNCOUNTED, running_inn
from tests.support.servers import serve_app
from tests.support.tokens import a_token

SECRET = "sesame-in-the-instructions"
OPERATOR = ["/agent/info", "/prompts"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings({"data_dir": tmp_path_factory.mktemp("operated"), **UNCOUNTED})


def bearer(settings: Settings, role: str) -> dict[str, str]:
    return {"authorization": f"Bearer {a_token(settings, role=role).text}"}


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    from agents import Agent as SdkAgent
    from pydantic_ai import Agent as PydanticAgent

    app = ServerBase(settings=settings)

    @app.agent("echo")
    async def echo(messages: Any) -> str:
        """Says what it heard."""
        return str(messages[-1]["content"])

    app.agent("dynamic")(echo)
    app.agent(lambda name: name == "resolved")(echo)
    named = {"greeting": "Good day."}
    app.agent("declared")(Agent("declared", model="test", instructions=SECRET, description="Brief.", prompts=named))
    app.agent("apart", isolated=True)(Agent("apart", model="test", instructions="Apart."))
    pydantic = PydanticAgent("test", system_prompt="Be kind.", instructions=["Be brief.", lambda: "Not shown."])
    app.agent("pydantic")(pydantic)
    app.agent("sdk")(SdkAgent(name="sdk", instructions="Be quick."))
    app.agent("asked")(SdkAgent(name="asked", instructions=lambda context, agent: "Not shown."))
    with serve_app(app) as served:
        yield served


@pytest.fixture(scope="module")
def admin(url: str, settings: Settings) -> dict[str, str]:
    return bearer(settings, "admin")


@pytest.fixture
def http(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=20, trust_env=False) as client:
        yield client


def test_the_info_of_an_agent_tells_what_runs_and_no_secret(http: httpx2.Client) -> None:
    told = http.get("/agent/info", params={"agent_name": "declared"})
    assert SECRET not in told.text and "/" not in told.text.replace("application/json", "")
    info = told.json()
    assert info.pop("uptime") >= 0
    assert info.pop("started_at").endswith("Z")
    assert info == {
        "name": "declared",
        "description": "Brief.",
        "model": "test",
        "tools": [],
        "max_steps": 10,
        "provider": "test",
        "is_default": False,
        "kind": "declared",
        "streams": True,
        "status": "running",
        "initializations": 0,
    }


def test_without_a_name_the_default_agent_is_told(http: httpx2.Client) -> None:
    info = http.get("/agent/info").json()
    assert (info["name"], info["is_default"], info["kind"]) == ("echo", True, "function")
    kinds = {name: http.get("/agent/info", params={"agent_name": name}).json()["kind"] for name in ("pydantic", "sdk")}
    assert kinds == {"pydantic": "pydantic-ai", "sdk": "openai-agents"}
    assert http.get("/agent/info", params={"agent_name": "nobody"}).json()["error"]["code"] == "AGENT_NOT_FOUND"


def test_prompts_are_those_that_agents_are_configured_with(http: httpx2.Client) -> None:
    told = http.get("/prompts").json()["prompts"]
    assert {one["agent_name"]: one["instructions"] for one in told} == {
        "declared": SECRET,
        "apart": "Apart.",
        "pydantic": "Be kind.\n\nBe brief.",
        "sdk": "Be quick.",
    }
    assert told[0]["prompts"] == {"greeting": "Good day."}
    assert told[0]["description"] == "Brief."


def test_who_is_no_admin_changes_nothing(http: httpx2.Client, settings: Settings) -> None:
    user = bearer(settings, "user")
    for path in ("/agent/initialize", "/restart", "/kill"):
        for headers in ({}, user):
            answer = http.post(path, headers=headers)
            assert (path, answer.status_code) == (path, 403)
            assert http.post(path, headers={"x-forwarded-for": "10.0.0.1"}).status_code == 401
    assert http.get("/prompts", headers=user).status_code == 403
    assert http.get("/prompts", headers={"x-forwarded-for": "10.0.0.1"}).status_code == 401


def test_an_agent_is_made_anew_and_the_audit_log_says_by_whom(http: httpx2.Client, admin: dict[str, str]) -> None:
    before = http.get("/agent/info").json()
    answer = http.post("/agent/initialize", headers=admin)
    assert answer.status_code == 200, answer.text
    assert answer.json()["initializations"] == before["initializations"] + 1
    assert answer.json()["started_at"] > before["started_at"]
    named = http.post("/agent/initialize", headers=admin, json={"agent_name": "dynamic"}).json()
    assert (named["name"], named["initializations"]) == ("dynamic", 1)
    assert [entry["resource_id"] for entry in entries(http, admin, "agent.initialize")[:2]] == ["dynamic", "echo"]


def entries(http: httpx2.Client, admin: dict[str, str], action: str) -> list[dict[str, Any]]:
    log = http.get("/api/v1/platform/audit", headers=admin, params={"limit": 50}).json()["entries"]
    return [entry for entry in log if entry["action"] == action]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"agent_name": "nobody"}, 404, "AGENT_NOT_FOUND"),
        ({"agent_name": "resolved"}, 409, "AGENT_NOT_INITIALIZED"),
        ({"agent_name": "DummyEngine"}, 409, "AGENT_NOT_INITIALIZED"),
        ({"agent_name": 1}, 422, "VALIDATION_ERROR"),
        ({"name": "echo"}, 422, "VALIDATION_ERROR"),
        ([], 422, "VALIDATION_ERROR"),
    ],
)
def test_what_cannot_be_made_anew_is_said(
    http: httpx2.Client, admin: dict[str, str], body: Any, status: int, code: str
) -> None:
    answer = http.post("/agent/initialize", headers=admin, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("header", ["AGENT_REINITIALIZE", "Agent-Reinitialize"])
def test_an_admins_header_makes_the_agent_anew_before_its_run(
    http: httpx2.Client, admin: dict[str, str], header: str
) -> None:
    asked = {"input": "Hello", "agent_name": "dynamic"}
    before = http.get("/agent/info", params={"agent_name": "dynamic"}).json()["initializations"]
    for value, more in (("true", 1), ("false", 0), ("TRUE", 1)):
        answer = http.post("/chat", json=asked, headers={**admin, header: value})
        assert answer.json()["output"] == "Hello"
        before += more
        assert http.get("/agent/info", params={"agent_name": "dynamic"}).json()["initializations"] == before
    assert http.post("/chat", json=asked, headers={header: "true"}).status_code == 403
    refused = http.post("/chat", json=asked, headers={**admin, header: "perhaps"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "AGENT_REINITIALIZE")


def test_a_server_within_another_program_says_that_it_cannot_be_ended(
    http: httpx2.Client, admin: dict[str, str]
) -> None:
    for path in ("/restart", "/kill"):
        answer = http.post(path, headers=admin)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "SERVER_NOT_OURS")
    assert not entries(http, admin, "server.restart") and not entries(http, admin, "server.kill")
    assert http.get("/status").json()["status"] == "running"


def test_status_counts_the_requests_under_way(tmp_path: Path) -> None:
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url, trust_env=False) as http:
        performance = inn.conduct("wait")
        queued = http.post("/chat", json={"input": "wait", "agent_name": "conducted", "background": True}).json()
        assert performance.began.wait(5)
        told = http.get("/status").json()
        assert (told["active_requests"], told["uptime"] > 0) == (1, True)
        performance.end()
        assert http.get(f"/runs/{queued['run_id']}?wait=5").json()["status"] == "completed"


def test_without_the_mode_none_of_it_is_served(tmp_path: Path) -> None:
    with running_inn(tmp_path, allowed_modes="chat health") as inn:
        admin = bearer(inn.app.kernel.settings, "admin")
        with httpx2.Client(base_url=inn.url, headers=admin, trust_env=False) as http:
            assert [http.get(path).status_code for path in OPERATOR] == [404, 404]
            for path in ("/agent/initialize", "/restart", "/kill"):
                assert http.post(path).status_code == 404, path
            for method, path in (("GET", "/prompts"), ("POST", "/restart"), ("POST", "/kill"), ("GET", "/logs")):
                assert http.request(method, path).json()["error"]["code"] == "NOT_FOUND", path
            refused = http.post("/chat", json={"input": "x"}, headers={"AGENT_REINITIALIZE": "true"})
            assert (refused.status_code, "ALLOWED_MODES" in json.dumps(refused.json())) == (403, True)


def test_no_agent_that_is_found_by_its_name_answers_at_a_path_of_the_servers(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, "allowed_modes": "chat", **UNCOUNTED}))

    @app.agent(lambda name: True)
    async def anybody(messages: Any) -> str:
        return "Hello."

    with serve_app(app) as url, httpx2.Client(base_url=url, trust_env=False) as http:
        assert http.post("/somebody").status_code == 200
        for method, path in (("POST", "/restart"), ("POST", "/kill"), ("GET", "/status"), ("GET", "/metrics")):
            answer = http.request(method, path)
            assert (path, answer.status_code, answer.json()["error"]["code"]) == (path, 404, "NOT_FOUND")
