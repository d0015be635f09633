"""Traces over HTTP: found by the id that answers tell, a tree with timings, for their owner alone, in every store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from innkeeper import NamedCommand, ServerBase, bus
from innkeeper.config import load_settings
from innkeeper.core.context import RunContext
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.handled import Journal, Ring, handle
from tests.support.inns import Inn, ended, running_inn, serve_inn
from tests.support.tokens import a_token

Json = dict[str, Any]

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
UNKNOWN = "f" * 32


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Inn, Journal]]:
    folder = tmp_path_factory.mktemp("data")
    if request.param == "sqlite":
        yield from _served(folder, {})
        return
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as url:
        yield from _served(folder, {"database_url": url})


def _served(folder: Path, settings: Json) -> Iterator[tuple[Inn, Journal]]:
    app = ServerBase(settings=load_settings({"data_dir": folder, **settings}))
    journal = handle(app)

    @app.agent("asks")
    async def asks(messages: list[Json], context: RunContext) -> str:
        """Has a command executed, and passes its trace on."""
        return f"{await bus.execute(NamedCommand('Chain', {'a': 1}))} {context.trace_id} {context.traceparent}"

    with serve_inn(app) as inn:
        yield inn, journal


@pytest.fixture
def inn(served: tuple[Inn, Journal]) -> Inn:
    return served[0]


@pytest.fixture
def http(inn: Inn) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=inn.url, timeout=20) as client:
        yield client


def spans(http: httpx2.Client, trace_id: str, **headers: str) -> list[Json]:
    answer = http.get(f"/api/observability/traces/{trace_id}", headers=headers)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["trace_id"], told["truncated"]) == (trace_id, False)
    found: list[Json] = told["spans"]
    assert [one["started_at"] for one in found] == sorted(one["started_at"] for one in found)
    assert len({one["span_id"] for one in found}) == len(found)
    return found


def of_kind(found: list[Json], kind: str) -> list[Json]:
    return [one for one in found if one["kind"] == kind]


def told_place(answer: httpx2.Response) -> tuple[str, str]:
    version, trace_id, span_id, flags = answer.headers["traceparent"].split("-")
    assert (version, flags) == ("00", "01")
    return trace_id, span_id


def test_a_run_is_a_tree_of_model_calls_tool_calls_and_store_with_timings(http: httpx2.Client) -> None:
    answer = http.post("/chat", json={"input": "Hi", "agent_name": "busy"})
    trace_id = answer.json()["trace_id"]
    assert told_place(answer)[0] == trace_id == answer.json()["run_id"].removeprefix("run_")
    found = spans(http, trace_id)
    (root,), (agent,) = of_kind(found, "run"), of_kind(found, "agent")
    (model,), tools = of_kind(found, "model"), of_kind(found, "tool")
    assert (root["span_id"], root["parent_id"], root["status"]) == (told_place(answer)[1], None, "ok")
    told = root["attributes"]
    assert (told["model"], told["input_tokens"], told["total_tokens"]) == ("a-model", 10, 15)
    assert (told["run_id"], told["agent_name"], told["steps"]) == (answer.json()["run_id"], "busy", 1)
    assert told["first_text_ms"] > 0
    assert agent["parent_id"] == root["span_id"]
    assert {one["parent_id"] for one in (model, *tools)} == {agent["span_id"]}
    assert [(one["name"], one["duration_ms"], one["status"]) for one in tools] == [
        ("lookup", 1.5, "ok"),
        ("lookup", 0.5, "error"),
    ]
    assert tools[1]["attributes"]["error"] == "no key"
    (accept, *_) = of_kind(found, "store")
    assert (accept["name"], accept["parent_id"]) == ("commit accept", root["span_id"])
    assert 0 < accept["duration_ms"] <= root["duration_ms"]
    assert all(0 <= one["duration_ms"] <= root["duration_ms"] + 10 for one in found)


def test_an_agent_without_steps_is_one_span(http: httpx2.Client) -> None:
    answer = http.post("/chat", json={"input": "Hi", "agent_name": "echo"})
    found = spans(http, answer.json()["trace_id"])
    assert sorted(one["kind"] for one in found if one["kind"] != "store") == ["agent", "run"]


def test_the_log_of_a_stream_has_its_commits_in_the_trace(http: httpx2.Client, inn: Inn) -> None:
    body = {"input": "commits", "agent_name": "conducted", "stream": True}
    play = inn.conduct("commits")
    play.say("One ")
    with http.stream("POST", "/chat", json=body) as answer:
        for line in answer.iter_lines():
            if "One" in line:
                play.say("two")
                play.end()
    root, *_ = of_kind(found := spans(http, told_place(answer)[0]), "run")
    logs = [one for one in of_kind(found, "store") if one["name"] == "commit log"]
    assert len(logs) == root["attributes"]["commits"] >= 1
    assert sum(one["duration_ms"] for one in logs) == pytest.approx(root["attributes"]["commit_ms"], abs=0.1)


def test_a_run_under_way_has_spans_without_an_end(http: httpx2.Client, inn: Inn) -> None:
    play = inn.conduct("open")
    queued = http.post("/chat", json={"input": "open", "agent_name": "conducted", "background": True}).json()
    assert play.began.wait(10)
    found = spans(http, queued["trace_id"])
    assert {one["kind"]: (one["duration_ms"], one["status"]) for one in found if one["kind"] != "queue"} == {
        "run": (None, "running"),
        "agent": (None, "running"),
    }
    play.end()
    ended(http, queued["run_id"])
    assert all(one["duration_ms"] is not None for one in spans(http, queued["trace_id"]))


def test_a_turn_that_waited_for_its_session_tells_how_long(http: httpx2.Client, inn: Inn) -> None:
    first, second = inn.conduct("first of two"), inn.conduct("second of two")
    for prompt in ("first of two", "second of two"):
        body = {"input": prompt, "agent_name": "conducted", "session_id": "line", "background": True}
        queued = http.post("/chat", json=body).json()
    assert first.began.wait(10)
    (waiting,) = of_kind(spans(http, queued["trace_id"]), "queue")
    assert (waiting["duration_ms"], waiting["status"]) == (None, "running")
    first.end()
    second.end()
    ended(http, queued["run_id"])
    found = spans(http, queued["trace_id"])
    (waited,), (agent,) = of_kind(found, "queue"), of_kind(found, "agent")
    assert waited["status"] == "ok" and waited["duration_ms"] > 0
    assert agent["started_at"] > waited["started_at"]


def test_a_failed_run_tells_its_error_and_nothing_of_what_was_raised(http: httpx2.Client) -> None:
    answer = http.post("/chat", json={"input": "Hi", "agent_name": "failing"})
    assert answer.status_code == 500
    found = spans(http, told_place(answer)[0])
    assert {one["status"] for one in found if one["kind"] in ("run", "agent")} == {"error"}
    assert found[0]["attributes"]["error"] == "AGENT_FAILED"
    assert "open-sesame" not in str(found)


def test_what_was_injected_is_in_the_trace(http: httpx2.Client, inn: Inn) -> None:
    play = inn.conduct("steered")
    queued = http.post("/chat", json={"input": "steered", "agent_name": "conducted", "background": True}).json()
    assert play.began.wait(10)
    http.post("/inject", json={"message": "Stop", "run_id": queued["run_id"]})
    play.look()
    play.end()
    ended(http, queued["run_id"])
    (injected,) = of_kind(spans(http, queued["trace_id"]), "injection")
    assert injected["duration_ms"] == 0
    assert injected["attributes"]["injection_id"].startswith("inj_")


def test_a_clients_own_trace_holds_all_that_it_did(http: httpx2.Client) -> None:
    session = http.post("/api/sessions", json={}).json()["session_id"]
    chat = http.post("/chat", json={"input": "Hi", "agent_name": "echo"}, headers=PARENT)
    engine = http.post("/api/engines", json={"engine_type": "DummyEngine"}).json()["engine_id"]
    execution = http.post(f"/api/engines/{engine}/execute", json={"prompt": "Hi"}, headers=PARENT)
    model = http.post(
        "/v1/chat/completions",
        json={"model": "echo", "messages": [{"role": "user", "content": "Hi"}], "stream": True},
        headers=PARENT,
    )
    body = {"command_type": "Add", "parameters": {"a": 1, "b": 2}}
    command = http.post(f"/api/sessions/{session}/commands", json=body, params={"wait": 10}, headers=PARENT)
    ring = {"event_type": "Ring", "data": {"times": 1}}
    assert http.post(f"/api/sessions/{session}/events", json=ring, headers=PARENT).status_code == 201
    answers = [chat, execution, model, command]
    assert {told_place(one)[0] for one in answers} == {TRACE}
    assert chat.json()["trace_id"] == execution.json()["trace_id"] == command.json()["trace_id"] == TRACE
    assert http.get(f"/runs/{chat.json()['run_id']}").json()["trace_id"] == TRACE
    found = spans(http, TRACE)
    roots = {one["span_id"] for one in found if one["parent_id"] == SPAN}
    assert {told_place(one)[1] for one in answers} <= roots
    assert any(one["name"] == "handler Ring" for one in found if one["span_id"] in roots)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'a' * 10_000}-{SPAN}-01",
    ],
)
def test_a_traceparent_that_is_not_valid_is_ignored(http: httpx2.Client, header: str) -> None:
    answer = http.post("/chat", json={"input": "Hi", "agent_name": "echo"}, headers={"traceparent": header})
    assert answer.status_code == 200
    assert answer.json()["trace_id"] == answer.json()["run_id"].removeprefix("run_")


def test_a_traceparent_that_is_told_twice_is_ignored(http: httpx2.Client) -> None:
    twice = [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("traceparent", f"00-{UNKNOWN}-{SPAN}-01")]
    answer = http.post("/chat", json={"input": "Hi", "agent_name": "echo"}, headers=twice)
    assert answer.json()["trace_id"] == answer.json()["run_id"].removeprefix("run_")


def test_turns_of_a_socket_join_the_trace_that_it_was_opened_in(http: httpx2.Client, inn: Inn) -> None:
    mine = "c" * 32
    headers = {"traceparent": f"00-{mine}-{SPAN}-01"}
    with connect(f"{inn.url.replace('http', 'ws')}/ws/chat", additional_headers=headers) as socket:
        socket.send('{"input": "Hi", "agent_name": "echo"}')
        while '"done"' not in str(socket.recv(timeout=10)):
            pass
    assert [one["parent_id"] for one in of_kind(spans(http, mine), "run")] == [SPAN]


def test_what_handlers_cause_hangs_beneath_them(http: httpx2.Client, served: tuple[Inn, Journal]) -> None:
    session = http.post("/api/sessions", json={}).json()["session_id"]
    body = {"command_type": "Chain", "parameters": {"a": 1}}
    command = http.post(f"/api/sessions/{session}/commands", json=body, params={"wait": 10}).json()
    assert command["status"] == "completed"
    found = spans(http, command["trace_id"])
    by_name = {one["name"]: one for one in found}
    root = by_name["command Chain"]
    assert by_name["command Add"]["parent_id"] == by_name["handler Ring"]["parent_id"] == root["span_id"]
    handler = by_name["handler Chain"]
    assert handler["parent_id"] == root["span_id"] and handler["status"] == "ok"
    assert Ring.__name__ == by_name["handler Ring"]["attributes"]["event_type"]


def test_what_an_agent_causes_hangs_beneath_its_run(http: httpx2.Client) -> None:
    answer = http.post("/chat", json={"input": "Hi", "agent_name": "asks"})
    trace_id, span_id = told_place(answer)
    assert answer.json()["output"] == f"2 {trace_id} {answer.headers['traceparent']}"
    found = spans(http, trace_id)
    by_name = {one["name"]: one for one in found}
    assert by_name["command Chain"]["parent_id"] == span_id
    assert by_name["command Add"]["parent_id"] == by_name["command Chain"]["span_id"]


def test_a_failed_command_tells_why(http: httpx2.Client) -> None:
    session = http.post("/api/sessions", json={}).json()["session_id"]
    body = {"command_type": "Refuse"}
    command = http.post(f"/api/sessions/{session}/commands", json=body, params={"wait": 10}).json()
    root, *_ = spans(http, command["trace_id"])
    assert root["status"] == "error"
    assert root["attributes"]["error"] == "COMMAND_EXECUTION_FAILED"


def test_a_batch_is_one_trace(http: httpx2.Client) -> None:
    session = http.post("/api/sessions", json={}).json()["session_id"]
    asked = [{"command_type": "Add", "parameters": {"a": number, "b": 1}} for number in range(5)]
    answer = http.post(f"/api/sessions/{session}/commands/batch", json={"commands": asked, "sequential": True})
    commands = answer.json()["commands"]
    assert {one["trace_id"] for one in commands} == {told_place(answer)[0]}
    http.get(f"/api/sessions/{session}/commands/{commands[-1]['command_id']}", params={"wait": 10})
    found = spans(http, commands[0]["trace_id"])
    assert len(of_kind(found, "command")) == len(of_kind(found, "handler")) == 5
    assert len(of_kind(found, "queue")) >= 4


@pytest.mark.parametrize("trace_id", [UNKNOWN, "nonsense", "0" * 33, "%00", "run_1", "x" * 3000])
def test_an_unknown_trace_answers_404(http: httpx2.Client, trace_id: str) -> None:
    answer = http.get(f"/api/observability/traces/{trace_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "TRACE_NOT_FOUND")


def test_tenants_see_their_own_part_of_a_trace_id_that_both_have_made_up(inn: Inn) -> None:
    settings = inn.app.kernel.settings
    mine, theirs, third = (a_token(settings, user).text for user in ("ann", "bob", "eve"))
    parent = f"00-{'d' * 32}-{SPAN}-01"
    runs = []
    for token in (mine, theirs):
        headers = {"authorization": f"Bearer {token}", "traceparent": parent}
        with httpx2.Client(base_url=inn.url, timeout=20) as http:
            runs.append(
                http.post("/chat", json={"input": "Hi", "agent_name": "echo"}, headers=headers).json()["run_id"]
            )
    with httpx2.Client(base_url=inn.url, timeout=20) as http:
        for token, run_id in zip((mine, theirs), runs, strict=True):
            (root,) = of_kind(spans(http, "d" * 32, authorization=f"Bearer {token}"), "run")
            assert root["attributes"]["run_id"] == run_id
        eve = {"authorization": f"Bearer {third}"}
        for trace_id in ("d" * 32, runs[0].removeprefix("run_")):
            assert http.get(f"/api/observability/traces/{trace_id}", headers=eve).status_code == 404


def test_a_run_that_keeps_nothing_has_a_trace_of_times_alone(http: httpx2.Client) -> None:
    body = {"model": "busy", "messages": [{"role": "user", "content": "Hi"}], "store": False}
    answer = http.post("/v1/chat/completions", json=body)
    found = spans(http, told_place(answer)[0])
    assert [one["kind"] for one in found] == ["run", "agent"]


def test_a_trace_of_more_runs_than_are_told_says_so(http: httpx2.Client) -> None:
    parent = {"traceparent": f"00-{'e' * 32}-{SPAN}-01"}

    def some() -> None:
        with httpx2.Client(base_url=http.base_url, timeout=60) as client:
            for _ in range(26):
                assert client.post("/chat", json={"input": "Hi"}, headers=parent).status_code == 200

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = http.get(f"/api/observability/traces/{'e' * 32}").json()
    assert told["truncated"] is True
    assert len(of_kind(told["spans"], "run")) == 100


def test_where_nothing_is_traced_no_answer_tells_of_a_trace(tmp_path: Path) -> None:
    with running_inn(tmp_path, enable_tracing=False) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        answer = http.post("/chat", json={"input": "Hi"}, headers=PARENT)
        assert "traceparent" not in answer.headers
        trace_id = answer.json()["trace_id"]
        assert trace_id != TRACE
        refused = http.get(f"/api/observability/traces/{trace_id}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "TRACE_NOT_FOUND")
        assert "ENABLE_TRACING" in refused.json()["error"]["message"]
