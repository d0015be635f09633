"""Engines over HTTP: made, listed, executed plain and streaming, and removed; over every store."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.core.errors import EngineNotFound
from innkeeper.core.identity import Caller, Owner
from innkeeper.services.engines import Engines
from tests.support.inns import Inn, Json, bare_app, frames, history, running_inn, said
from tests.support.servers import serve_app

T = TypeVar("T")


def made(http: httpx2.Client, engine_type: str = "DummyEngine", **fields: Any) -> Json:
    answer = http.post("/api/engines", json={"engine_type": engine_type, **fields})
    assert answer.status_code == 201, answer.text
    engine: Json = answer.json()
    return engine


def execute(http: httpx2.Client, engine: Json, prompt: str, **fields: Any) -> httpx2.Response:
    return http.post(f"/api/engines/{engine['engine_id']}/execute", json={"prompt": prompt, **fields})


def status_of(http: httpx2.Client, engine: Json) -> str:
    return str(http.get(f"/api/engines/{engine['engine_id']}").json()["status"])


def error_of(answer: httpx2.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def test_an_engine_is_told_as_it_was_made(http: httpx2.Client) -> None:
    session_id = http.post("/sessions", json={}).json()["id"]
    body = {
        "engine_type": "DummyEngine",
        "model_name": "gpt-4",
        "session_id": session_id,
        "configuration": {"temperature": 0.7, "max_tokens": 1000, "variables": {"a": None}},
    }
    engine = made(http, **body)
    assert engine == {
        **body,
        "engine_id": engine["engine_id"],
        "user_id": "local",
        "status": "initialized",
        "last_run_id": None,
        "created_at": engine["created_at"],
    }
    assert engine["created_at"].endswith("Z")
    assert http.get(f"/api/engines/{engine['engine_id']}").json() == engine


def test_without_a_session_an_engine_gets_one_of_its_own(http: httpx2.Client) -> None:
    engine = made(http, "echo", session_id=None, model_name=None, configuration=None)
    session = http.get(f"/sessions/{engine['session_id']}").json()
    assert (session["agent_name"], session["messages"]) == ("echo", [])
    assert engine["configuration"] == {}


def test_executing_an_engine_is_a_run_in_its_session(http: httpx2.Client) -> None:
    engine = made(http)
    answer = execute(http, engine, "Hello, world!", parameters={"temperature": 0.7}, metadata={"a": 1})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told == {
        "engine_id": engine["engine_id"],
        "run_id": answer.headers["x-run-id"],
        "session_id": engine["session_id"],
        "trace_id": told["trace_id"],
        "status": "completed",
        "result": "Dummy response to: Hello, world!",
        "usage": None,
    }
    assert told["trace_id"]
    run = http.get(f"/runs/{told['run_id']}").json()
    assert (run["agent_name"], run["status"], run["metadata"]) == ("DummyEngine", "completed", {"a": 1})
    assert history(http, engine["session_id"]) == [
        ("user", "Hello, world!"),
        ("assistant", "Dummy response to: Hello, world!"),
    ]
    assert http.get(f"/api/engines/{engine['engine_id']}").json()["last_run_id"] == told["run_id"]


def test_what_an_agent_reports_is_in_the_answer(http: httpx2.Client) -> None:
    told = execute(http, made(http, "busy"), "Look").json()
    assert (told["result"], told["usage"]) == (
        "It is 42.",
        {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
    )


def test_an_engine_remembers_what_was_said_to_it(http: httpx2.Client, inn: Inn) -> None:
    engine = made(http, "echo")
    for prompt in ("One", "Two"):
        execute(http, engine, prompt)
    assert [message["content"] for message in inn.seen[-1]] == ["One", "You said: One ", "Two"]


def test_an_engine_stays_with_the_end_user_of_its_session(http: httpx2.Client) -> None:
    anns = http.post("/sessions", json={"user_id": "ann"}).json()["id"]
    engine = made(http, session_id=anns)
    http.post("/sessions", json={"id": anns, "user_id": "local"})
    assert execute(http, engine, "Hello").status_code == 200
    counts = {
        user: http.get(f"/sessions/{anns}", params={"user_id": user}).json()["message_count"]
        for user in ("ann", "local")
    }
    assert counts == {"ann": 2, "local": 0}


@pytest.mark.parametrize(("fields", "headers"), [({"stream": True}, {}), ({}, {"accept": "text/event-stream"})])
def test_an_engine_streams_where_it_is_asked_to(http: httpx2.Client, fields: Json, headers: dict[str, str]) -> None:
    path = f"/api/engines/{made(http)['engine_id']}/execute"
    answer = http.post(path, json={"prompt": "Hello", **fields}, headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = frames(answer.content)
    assert said(found) == "Dummy response to: Hello"
    assert [frame.data["type"] for frame in found] == ["run", "text", "text", "text", "text", "done"]
    assert http.get(f"/runs/{answer.headers['x-run-id']}/events").content == answer.content


@pytest.mark.parametrize(
    ("fields", "accept"),
    [({"stream": False}, "text/event-stream"), ({}, "application/json, text/event-stream"), ({}, "*/*")],
)
def test_an_answer_that_may_be_whole_is_not_streamed(http: httpx2.Client, fields: Json, accept: str) -> None:
    path = f"/api/engines/{made(http)['engine_id']}/execute"
    answer = http.post(path, json={"prompt": "Hello", **fields}, headers={"accept": accept})
    assert answer.json()["result"] == "Dummy response to: Hello"


def test_its_status_follows_its_last_run(http: httpx2.Client, inn: Inn) -> None:
    engine = made(http, "conducted")
    seen = [status_of(http, engine)]
    for prompt, ends in (("goes well", True), ("goes wrong", False)):
        performance = inn.conduct(f"{engine['engine_id']} {prompt}")
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(execute, http, engine, f"{engine['engine_id']} {prompt}")
            assert performance.began.wait(10)
            seen.append(status_of(http, engine))
            performance.end() if ends else performance.fail()
            assert answer.result(10).status_code == (200 if ends else 500)
        seen.append(status_of(http, engine))
    assert seen == ["initialized", "active", "idle", "active", "failed"]


def test_a_run_that_fails_while_its_caller_waits_is_an_error(http: httpx2.Client) -> None:
    engine = made(http, "failing")
    answer = execute(http, engine, "Hello")
    assert error_of(answer) == (500, "AGENT_FAILED", None)
    assert "open-sesame" not in answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert status_of(http, engine) == "failed"
    streamed = frames(execute(http, engine, "Hello", stream=True).content)
    assert [frame.data["type"] for frame in streamed] == ["run", "error", "done"]


def test_engines_are_listed_by_session_and_status(http: httpx2.Client) -> None:
    one, other = (http.post("/sessions", json={}).json()["id"] for _ in range(2))
    engines = [made(http, session_id=session_id) for session_id in (one, other, one)]
    execute(http, engines[0], "Hello")

    def listed(**params: Any) -> list[str]:
        answer = http.get("/api/engines", params=params)
        assert answer.status_code == 200, answer.text
        return [engine["engine_id"] for engine in answer.json()["engines"]]

    first, second, third = (engine["engine_id"] for engine in engines)
    assert listed()[:3] == [third, second, first]
    assert listed(session_id=one) == [third, first]
    assert listed(session_id=one, status="initialized") == [third]
    assert listed(session_id=one, status="idle") == [first]
    assert listed(session_id=one, status="active") == listed(session_id=one, status="failed") == []
    page = http.get("/api/engines", params={"session_id": one, "limit": 1}).json()
    assert ([engine["engine_id"] for engine in page["engines"]], page["has_more"]) == ([third], True)
    page = http.get("/api/engines", params={"session_id": one, "limit": 1, "after": third}).json()
    assert ([engine["engine_id"] for engine in page["engines"]], page["has_more"]) == ([first], False)


def test_the_types_are_what_is_built_in_and_every_agent(http: httpx2.Client) -> None:
    types = http.get("/api/engine-types").json()["engine_types"]
    agents = [agent["name"] for agent in http.get("/agents").json()]
    assert [told["engine_type"] for told in types] == ["DummyEngine", *agents]
    dummy, echo = types[:2]
    assert (dummy["model"], dummy["models"]) == (None, None)
    assert (echo["description"], echo["models"]) == ("Says what it heard.", [])
    schema = echo["configuration"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}


def test_the_dummy_is_no_agent_of_anybodys(http: httpx2.Client) -> None:
    assert "DummyEngine" not in http.get("/agents").text
    assert "DummyEngine" not in http.get("/v1/models").text
    assert "DummyEngine" not in http.get("/health").text


def test_a_server_without_agents_has_the_dummy(tmp_path: Path) -> None:
    with serve_app(bare_app(tmp_path)) as url, httpx2.Client(base_url=url) as http:
        engine = made(http)
        assert execute(http, engine, "Hello").json()["result"] == "Dummy response to: Hello"
        assert error_of(http.post("/api/engines", json={"engine_type": "echo"})) == (
            404,
            "AGENT_NOT_FOUND",
            "engine_type",
        )
        assert error_of(http.post("/chat", json={"input": "Hello"})) == (503, "NO_AGENTS", None)


def test_an_agent_of_yours_comes_before_the_dummy(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))

    @app.agent("DummyEngine")
    async def mine(messages: list[Json]) -> str:
        """Mine."""
        return "Mine."

    with serve_app(app) as url, httpx2.Client(base_url=url) as http:
        assert [told["description"] for told in http.get("/api/engine-types").json()["engine_types"]] == ["Mine."]
        assert execute(http, made(http), "Hello").json()["result"] == "Mine."
        refused = http.post("/api/engines", json={"engine_type": "DummyEngine", "model_name": "gpt-4"})
        assert error_of(refused) == (422, "VALIDATION_ERROR", "model_name")


def test_the_dummy_runs_in_the_background_too(http: httpx2.Client) -> None:
    run_id = http.post("/chat", json={"agent_name": "DummyEngine", "input": "Hi", "background": True}).json()["run_id"]
    assert http.get(f"/runs/{run_id}", params={"wait": 10}).json()["output"] == "Dummy response to: Hi"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"engine_type": "nobody"}, (404, "AGENT_NOT_FOUND", "engine_type")),
        ({"engine_type": ""}, (422, "VALIDATION_ERROR", "engine_type")),
        ({"engine_type": 1}, (422, "VALIDATION_ERROR", "engine_type")),
        ({"engine_type": None}, (422, "VALIDATION_ERROR", "engine_type")),
        ({"session_id": "nowhere"}, (404, "SESSION_NOT_FOUND", "session_id")),
        ({"session_id": "a\u0000b"}, (422, "VALIDATION_ERROR", "session_id")),
        ({"engine_type": "echo", "model_name": "gpt-4"}, (422, "VALIDATION_ERROR", "model_name")),
        ({"model_name": "x" * 257}, (422, "VALIDATION_ERROR", "model_name")),
        ({"configuration": []}, (422, "VALIDATION_ERROR", "configuration")),
        ({"configuration": {"temperature": 2.1}}, (422, "VALIDATION_ERROR", "configuration.temperature")),
        ({"configuration": {"temperature": "hot"}}, (422, "VALIDATION_ERROR", "configuration.temperature")),
        ({"configuration": {"temperature": True}}, (422, "VALIDATION_ERROR", "configuration.temperature")),
        ({"configuration": {"max_tokens": 0}}, (422, "VALIDATION_ERROR", "configuration.max_tokens")),
        ({"configuration": {"max_tokens": True}}, (422, "VALIDATION_ERROR", "configuration.max_tokens")),
        ({"configuration": {"top_p": -1}}, (422, "VALIDATION_ERROR", "configuration.top_p")),
        ({"configuration": {"stop": ["a", ""]}}, (422, "VALIDATION_ERROR", "configuration.stop")),
        ({"configuration": {"stop": [1]}}, (422, "VALIDATION_ERROR", "configuration.stop")),
        ({"configuration": {"seed": 2**63}}, (422, "VALIDATION_ERROR", "configuration.seed")),
        ({"configuration": {"presence_penalty": 3}}, (422, "VALIDATION_ERROR", "configuration.presence_penalty")),
        ({"configuration": {"frequency_penalty": -3}}, (422, "VALIDATION_ERROR", "configuration.frequency_penalty")),
        ({"configuration": {"parallel_tool_calls": 1}}, (422, "VALIDATION_ERROR", "configuration.parallel_tool_calls")),
        ({"configuration": {"reasoning_effort": ""}}, (422, "VALIDATION_ERROR", "configuration.reasoning_effort")),
        ({"configuration": {"allowed_tools": "a"}}, (422, "VALIDATION_ERROR", "configuration.allowed_tools")),
        ({"configuration": {"workflow": {}}}, (422, "VALIDATION_ERROR", "configuration.workflow")),
        ({"configuration": {"variables": []}}, (422, "VALIDATION_ERROR", "configuration.variables")),
        ({"configuration": {"tools": []}}, (422, "VALIDATION_ERROR", "configuration.tools")),
        ({"configuration": {"model": "x"}}, (422, "VALIDATION_ERROR", "configuration.model")),
        ({"configuration": {"variables": {"a": "x" * 65536}}}, (422, "VALIDATION_ERROR", "configuration")),
        ({"model": "gpt-4"}, (422, "VALIDATION_ERROR", "model")),
    ],
)
def test_an_engine_that_cannot_be_is_refused(
    http: httpx2.Client, fields: Json, expected: tuple[int, str, str | None]
) -> None:
    before = http.get("/api/engines").json()
    assert error_of(http.post("/api/engines", json={"engine_type": "DummyEngine", **fields})) == expected
    assert http.get("/api/engines").json() == before


def test_a_mistyped_parameter_is_told_its_nearest_name(http: httpx2.Client) -> None:
    wrong = {"engine_type": "DummyEngine", "configuration": {"max_token": 1}}
    error = http.post("/api/engines", json=wrong).json()["error"]
    issue = "There is no such parameter. Did you mean 'max_tokens'?"
    assert error["message"] == f"configuration.max_token: {issue}"
    assert error["details"] == {"field": "configuration.max_token", "issue": issue}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": " \n"}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["Hello"]}, "prompt"),
        ({"parameters": {"temperature": -1}}, "parameters.temperature"),
        ({"parameters": {"temprature": 1}}, "parameters.temprature"),
        ({"stream": "yes"}, "stream"),
        ({"when_busy": "wait"}, "when_busy"),
        ({"grace": -1}, "grace"),
        ({"background": True}, "background"),
    ],
)
def test_what_cannot_be_executed_is_refused(http: httpx2.Client, fields: Json, param: str) -> None:
    engine = made(http)
    assert error_of(execute(http, engine, **{"prompt": "Hello", **fields})) == (422, "VALIDATION_ERROR", param)
    assert status_of(http, engine) == "initialized"


def test_what_is_not_there_is_404(http: httpx2.Client) -> None:
    for path in ("none", "%00", "x" * 300):
        for answer in (
            http.get(f"/api/engines/{path}"),
            http.delete(f"/api/engines/{path}"),
            http.post(f"/api/engines/{path}/execute", json={"prompt": "Hello"}),
        ):
            assert error_of(answer) == (404, "ENGINE_NOT_FOUND", "engine_id")
    assert error_of(http.get("/api/engines", params={"session_id": "none"})) == (404, "SESSION_NOT_FOUND", "session_id")


@pytest.mark.parametrize("params", [{"status": "busy"}, {"status": ""}, {"limit": 0}, {"limit": 201}, {"limit": "x"}])
def test_a_filter_that_cannot_be_is_refused(http: httpx2.Client, params: Json) -> None:
    assert error_of(http.get("/api/engines", params=params)) == (422, "VALIDATION_ERROR", next(iter(params)))


def test_what_an_engine_is_configured_for_reaches_its_agent(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))

    @app.agent("tells")
    async def tells(messages: list[Json], context: Any) -> Json:
        return {"workflow": context.workflow, "variables": context.variables}

    with serve_app(app) as url, httpx2.Client(base_url=url) as http:
        configuration = {"workflow": "review", "variables": {"language": "de"}}
        engine = made(http, "tells", configuration=configuration)
        assert json.loads(execute(http, engine, "?").json()["result"]) == configuration
        told = execute(http, engine, "?", parameters={"workflow": "other", "variables": None}).json()["result"]
        assert json.loads(told) == {"workflow": "other", "variables": {"language": "de"}}


def test_executions_of_one_engine_take_turns_and_all_are_answered(http: httpx2.Client) -> None:
    engine = made(http)
    prompts = [f"number {number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda prompt: execute(http, engine, prompt), prompts))
    assert [answer.json()["result"] for answer in answers] == [f"Dummy response to: {prompt}" for prompt in prompts]
    spoken = [content for role, content in history(http, engine["session_id"]) if role == "user"]
    assert sorted(spoken) == prompts
    assert status_of(http, engine) == "idle"


def test_a_busy_session_refuses_where_the_request_says_so(http: httpx2.Client, inn: Inn) -> None:
    engine = made(http, "conducted")
    performance = inn.conduct(f"first of {engine['engine_id']}")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(execute, http, engine, f"first of {engine['engine_id']}")
        assert performance.began.wait(10)
        refused = execute(http, engine, "second", when_busy="reject")
        assert error_of(refused) == (409, "RUN_CONFLICT", None)
        under_way = http.get(f"/api/engines/{engine['engine_id']}").json()
        assert under_way["last_run_id"] == refused.json()["error"]["details"]["run_id"]
        performance.end()
        assert first.result(10).status_code == 200


def test_an_engine_that_is_removed_leaves_its_run_to_its_end(http: httpx2.Client, inn: Inn) -> None:
    engine = made(http, "conducted")
    performance = inn.conduct(f"outlives {engine['engine_id']}")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(execute, http, engine, f"outlives {engine['engine_id']}")
        assert performance.began.wait(10)
        removed = http.delete(f"/api/engines/{engine['engine_id']}")
        assert (removed.status_code, removed.content) == (204, b"")
        assert http.get(f"/api/engines/{engine['engine_id']}").status_code == 404
        performance.say("Done.")
        performance.end()
        assert answer.result(10).json()["result"] == "Done."
    assert history(http, engine["session_id"])[-1] == ("assistant", "Done.")
    assert http.delete(f"/api/engines/{engine['engine_id']}").status_code == 404


def test_a_session_takes_its_engines_along(http: httpx2.Client) -> None:
    engine = made(http)
    execute(http, engine, "Hello")
    assert http.delete(f"/sessions/{engine['session_id']}").status_code == 204
    assert error_of(execute(http, engine, "Hello")) == (404, "ENGINE_NOT_FOUND", "engine_id")
    assert http.get(f"/sessions/{engine['session_id']}").status_code == 404, "and it is not made again"


def test_the_same_creation_again_gets_the_first_answer(http: httpx2.Client) -> None:
    session_id = http.post("/sessions", json={}).json()["id"]
    for number, fields in enumerate(({}, {"session_id": session_id})):
        key = {"idempotency-key": f"create {number} {session_id}"}
        body = {"engine_type": "DummyEngine", **fields}
        first = http.post("/api/engines", json=body, headers=key)
        execute(http, first.json(), "Hello")
        again = http.post("/api/engines", json=body, headers=key)
        assert (again.status_code, again.json()) == (201, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        other = http.post("/api/engines", json={**body, "model_name": "x"}, headers=key)
        assert error_of(other) == (422, "IDEMPOTENCY_MISMATCH", "Idempotency-Key")
        listed = http.get("/api/engines", params={"session_id": first.json()["session_id"]}).json()["engines"]
        assert [engine["engine_id"] for engine in listed] == [first.json()["engine_id"]]


def test_the_same_execution_again_attaches_to_its_run(http: httpx2.Client) -> None:
    engine = made(http)
    path, key = f"/api/engines/{engine['engine_id']}/execute", {"idempotency-key": engine["engine_id"]}
    first, again = (http.post(path, json={"prompt": "Hello"}, headers=key) for _ in range(2))
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert len(history(http, engine["session_id"])) == 2


def test_whoever_leaves_may_have_its_run_cancelled(http: httpx2.Client, inn: Inn) -> None:
    engine = made(http, "conducted")
    prompt = f"left {engine['engine_id']}"
    performance = inn.conduct(prompt)
    body = {"prompt": prompt, "stream": True, "on_disconnect": "cancel"}
    with http.stream("POST", f"/api/engines/{engine['engine_id']}/execute", json=body):
        assert performance.began.wait(10)
    assert performance.cancelled.wait(10)
    run_id = http.get(f"/api/engines/{engine['engine_id']}").json()["last_run_id"]
    assert http.get(f"/runs/{run_id}", params={"wait": 10}).json()["status"] == "cancelled"
    assert status_of(http, engine) == "idle"


def test_hooks_see_an_execution_like_any_other_turn(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
    seen: list[tuple[str, Any]] = []

    @app.agent.before_request
    async def before(request: Any) -> None:
        seen.append(("before", request.url.path))

    @app.agent.finalize_request
    async def finalize(request: Any, response: Any) -> None:
        seen.append(("finalize", response.status_code))

    with serve_app(app) as url, httpx2.Client(base_url=url) as http:
        engine = made(http)
        execute(http, engine, "Hello")
    assert seen == [("before", f"/api/engines/{engine['engine_id']}/execute"), ("finalize", 200)]


def on_server(inn: Inn, ask: Callable[[Engines], Coroutine[Any, Any, T]]) -> T:
    """What the server's own service answers, for callers whom HTTP does not know."""
    house = inn.app.kernel.house
    assert house.services is not None
    assert house.loop is not None
    return asyncio.run_coroutine_threadsafe(ask(house.services.engines), house.loop).result(10)


def test_nobody_else_sees_executes_or_removes_an_engine(http: httpx2.Client, inn: Inn) -> None:
    engine, bob = made(http), Caller(Owner("acme", "bob"))
    engine_id = engine["engine_id"]
    tries: list[Callable[[Engines], Coroutine[Any, Any, object]]] = [
        lambda engines: engines.get(bob, engine_id),
        lambda engines: engines.start(bob, engine_id, "Hello", {}),
        lambda engines: engines.delete(bob, engine_id),
    ]
    for one in tries:
        with pytest.raises(EngineNotFound):
            on_server(inn, one)
    assert on_server(inn, lambda engines: engines.page(bob, limit=10)) == ([], False)
    bobs, _ = on_server(inn, lambda engines: engines.create(bob, engine_type="DummyEngine"))
    assert http.get(f"/api/engines/{bobs.id}").status_code == 404
    assert status_of(http, engine) == "initialized"


def test_there_is_an_end_to_how_many_engines_one_may_have(tmp_path: Path) -> None:
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url) as http:
        first = made(http)
        with closing(sqlite3.connect(inn.database, timeout=10)) as database, database:
            database.execute(
                "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 999)"
                " INSERT INTO engines SELECT '0' || n, organization, owner, user_id, session_key, session_id,"
                " engine_type, model_name, configuration, last_run_id, created_at FROM engines, s"
            )
        refused = http.post("/api/engines", json={"engine_type": "DummyEngine"})
        assert error_of(refused) == (429, "RATE_LIMITED", None)
        assert refused.headers["retry-after"] == "60"
        http.delete(f"/api/engines/{first['engine_id']}")
        made(http)


def test_engines_are_there_again_when_the_server_is(tmp_path: Path) -> None:
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url) as http:
        engine = made(http, configuration={"temperature": 0.5})
        execute(http, engine, "Before")
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url) as http:
        again = http.get(f"/api/engines/{engine['engine_id']}").json()
        assert again == {**engine, "status": "idle", "last_run_id": again["last_run_id"]}
        assert execute(http, engine, "After").json()["result"] == "Dummy response to: After"
        assert len(history(http, engine["session_id"])) == 4


def test_an_engine_whose_agent_is_not_served_any_more_says_so(tmp_path: Path) -> None:
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url) as http:
        engine = made(http, "echo")
    with serve_app(bare_app(tmp_path)) as url, httpx2.Client(base_url=url) as http:
        assert error_of(execute(http, engine, "Hello")) == (404, "AGENT_NOT_FOUND", "engine_type")
        assert status_of(http, engine) == "initialized"
        assert http.delete(f"/api/engines/{engine['engine_id']}").status_code == 204
