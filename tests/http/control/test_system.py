"""System: the control plane's health, status and settings, and who may see them and stop the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from innkeeper import create_app
from innkeeper.config import load_settings
from innkeeper.testing import create_test_client
from innkeeper.version import __version__
from tests.support.inns import Inn, running_inn
from tests.support.tokens import a_token

STRANGER = {"x-forwarded-for": "10.0.0.1"}
INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"


@pytest.fixture(scope="module")
def inn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    folder = tmp_path_factory.mktemp("data")
    with running_inn(folder, api_key_secret="hunter2", cors_origins="http://page.example") as running:
        yield running


@pytest.fixture
def http(inn: Inn) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=inn.url, timeout=20, trust_env=False) as client:
        yield client


def bearer(inn: Inn, role: str, **fields: object) -> dict[str, str]:
    made = a_token(inn.app.kernel.settings, f"{role}-{len(fields)}", role, **fields)
    return {**STRANGER, "authorization": f"Bearer {made.text}"}


def test_health_answers_anyone_and_tells_callers_more(http: httpx2.Client, inn: Inn) -> None:
    told = http.get("/api/health", headers=STRANGER).json()
    assert sorted(told) == ["status", "timestamp"] and told["status"] == "healthy"
    assert re.fullmatch(INSTANT, told["timestamp"])
    for headers in ({}, bearer(inn, "read")):
        known = http.get("/api/health", headers=headers).json()
        assert sorted(known) == ["agent", "status", "timestamp", "uptime", "version"]
        assert (known["agent"], known["version"]) == ("echo", __version__)
        assert known["uptime"] >= 0


def test_status_is_for_callers_and_counts(http: httpx2.Client, inn: Inn) -> None:
    assert http.get("/api/status", headers=STRANGER).status_code == 401
    told = http.get("/api/status").json()
    assert (told["status"], told["agent"], told["store"]) == ("running", "echo", "SQLite")
    assert told["counts"] == {"agents": len(told["agents"]), "active_runs": 0}
    performance = inn.conduct("count me")
    body = {"input": "count me", "agent_name": "conducted", "background": True}
    run_id = http.post("/chat", json=body).json()["run_id"]
    assert performance.began.wait(10)
    assert http.get("/api/status").json()["counts"]["active_runs"] == 1
    performance.end()
    http.get(f"/runs/{run_id}", params={"wait": 10})


def test_the_settings_are_shown_as_in_a_file_and_secrets_are_not(http: httpx2.Client, inn: Inn) -> None:
    answer = http.get("/api/config")
    told = answer.json()
    assert "hunter2" not in answer.text
    assert (told["security"]["api_key_secret"], told["webhooks"]["secret"]) == ("set", "unset")
    assert (told["database"], told["server"]["port"]) == ({"url": "unset"}, 8000)
    assert told["security"]["cors_origins"] == ["http://page.example"]
    assert told["observability"]["enable_metrics"] is True


def test_the_settings_are_for_admins_those_with_the_scope_and_the_local_user(http: httpx2.Client, inn: Inn) -> None:
    allowed = [bearer(inn, "admin"), bearer(inn, "read", scopes=["observability"]), {}]
    assert [http.get("/api/config", headers=headers).status_code for headers in allowed] == [200, 200, 200]
    assert http.get("/api/config", headers=bearer(inn, "user")).status_code == 403
    assert http.get("/api/config", headers=STRANGER).status_code == 401


def test_only_an_admin_may_stop_the_server(http: httpx2.Client, inn: Inn) -> None:
    refused = [STRANGER, {}, bearer(inn, "user"), bearer(inn, "read", scopes=["observability"])]
    statuses = [http.post("/api/shutdown", headers=headers).status_code for headers in refused]
    assert statuses == [401, 403, 403, 403]


def test_a_process_that_is_not_the_servers_own_is_not_stopped(http: httpx2.Client, inn: Inn) -> None:
    answer = http.post("/api/shutdown", headers=bearer(inn, "admin"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert answer.json()["detail"] == "This process is not the server's own: whoever started it has to end it."


def test_a_test_client_is_not_stopped_either(tmp_path: Path) -> None:
    app = create_app(settings=load_settings({"data_dir": tmp_path}))
    with create_test_client(app, data_dir=tmp_path) as client:
        token = a_token(load_settings({"data_dir": tmp_path}), "ann", "admin").text
        assert client.post("/api/shutdown", headers={"x-api-key": token}).status_code == 503
        assert client.get("/live").status_code == 200


@pytest.mark.parametrize(("modes", "statuses"), [("api", [200, 200, 200]), ("chat", [200, 404, 404])])
def test_health_is_always_there_and_the_rest_where_the_control_plane_is(
    tmp_path: Path, modes: str, statuses: list[int]
) -> None:
    with running_inn(tmp_path, allowed_modes=modes) as inn, httpx2.Client(base_url=inn.url) as http:
        paths = ("/api/health", "/api/status", "/api/config")
        assert [http.get(path).status_code for path in paths] == statuses
