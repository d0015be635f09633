"""The models that engines choose, for agents whose framework can change them; against a real provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import agents
import httpx2
import pydantic_ai
import pytest

from innkeeper import Agent, ServerBase
from innkeeper.config import load_settings
from tests.support.inns import Json
from tests.support.openai_upstream import Upstream, running_upstream
from tests.support.servers import serve_app

OWN = {"declared": "openai:gpt-4o", "pydantic": "openai:gpt-4o", "sdk": "gpt-4o"}


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    with running_upstream() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-upstream")
        yield running


@pytest.fixture
def http(upstream: Upstream, tmp_path: Path) -> Iterator[httpx2.Client]:
    with serving(tmp_path, engine_models="openai:gpt-5-mini, test") as client:
        yield client


@contextmanager
def serving(data_dir: Path, **settings: Any) -> Iterator[httpx2.Client]:
    """A client of a server with an agent of each framework."""
    app = ServerBase(settings=load_settings({"data_dir": data_dir, **settings}))
    app.agent("declared")(Agent(name="declared", model="openai:gpt-4o"))
    app.agent("pydantic")(pydantic_ai.Agent("openai:gpt-4o", defer_model_check=True))
    app.agent("sdk")(agents.Agent(name="sdk", model="gpt-4o"))
    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=30) as client:
        yield client


def made(http: httpx2.Client, engine_type: str, model_name: str | None, **configuration: Any) -> Json:
    body = {"engine_type": engine_type, "model_name": model_name, "configuration": configuration}
    answer = http.post("/api/engines", json=body)
    assert answer.status_code == 201, answer.text
    engine: Json = answer.json()
    return engine


def execute(http: httpx2.Client, engine: Json, **fields: Any) -> httpx2.Response:
    return http.post(f"/api/engines/{engine['engine_id']}/execute", json={"prompt": "Hello", **fields})


@pytest.mark.parametrize("engine_type", OWN)
def test_the_model_of_an_engine_is_the_one_that_is_asked(
    http: httpx2.Client, upstream: Upstream, engine_type: str
) -> None:
    names = (None, OWN[engine_type], "openai:gpt-5-mini")
    for name in names:
        answer = execute(http, made(http, engine_type, name))
        assert answer.json()["result"] == "You said: Hello", answer.text
    assert [request.body["model"] for request in upstream.requests] == ["gpt-4o", "gpt-4o", "gpt-5-mini"]


def test_a_declared_agent_may_be_given_any_model_that_is_allowed(http: httpx2.Client, upstream: Upstream) -> None:
    assert execute(http, made(http, "declared", "test")).json()["result"] == "You said: Hello"
    assert upstream.requests == []


@pytest.mark.parametrize("engine_type", OWN)
def test_the_configuration_reaches_the_model_and_the_request_stands_above_it(
    http: httpx2.Client, upstream: Upstream, engine_type: str
) -> None:
    engine = made(http, engine_type, None, temperature=0.5, max_tokens=100, stop="END")
    execute(http, engine)
    execute(http, engine, parameters={"temperature": 0.25, "stop": ["A", "B"]})
    first, second = (request.body for request in upstream.requests)
    assert (first["temperature"], first["stop"]) == (0.5, ["END"])
    assert (second["temperature"], second["stop"]) == (0.25, ["A", "B"])
    for body in (first, second):
        assert 100 in (body.get("max_tokens"), body.get("max_completion_tokens"))


@pytest.mark.parametrize("engine_type", OWN)
def test_a_model_that_is_not_allowed_is_refused_with_those_that_are(http: httpx2.Client, engine_type: str) -> None:
    answer = http.post("/api/engines", json={"engine_type": engine_type, "model_name": "openai:gpt-5"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "VALIDATION_ERROR", "model_name")
    allowed = f"{OWN[engine_type]}, openai:gpt-5-mini, test"
    assert error["details"]["issue"] == (
        f"Agent {engine_type!r} may have these models here: {allowed}. The setting engine_models allows others."
    )


def test_the_types_tell_which_models_they_may_have(http: httpx2.Client) -> None:
    _, *types = http.get("/api/engine-types").json()["engine_types"]
    assert {told["engine_type"]: told["model"] for told in types} == OWN
    assert {told["engine_type"]: told["models"] for told in types} == {
        name: [own, "openai:gpt-5-mini", "test"] for name, own in OWN.items()
    }


def test_a_model_that_is_no_longer_allowed_is_not_asked(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, engine_models="openai:gpt-5-mini") as http:
        engine = made(http, "declared", "openai:gpt-5-mini")
    with serving(tmp_path) as http:
        answer = execute(http, engine)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "model_name")
    assert upstream.requests == []
