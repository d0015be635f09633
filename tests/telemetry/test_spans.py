"""Spans for OpenTelemetry: what a real collector is sent, and that one which is away disturbs nobody."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.core.errors import MissingDependency, SetupError
from innkeeper.wiring import open_span_sink
from tests.support.collectors import Collector, attributes, running_collector
from tests.support.handled import handle
from tests.support.inns import Inn, ended, serve_inn
from tests.support.sizes import sized, within

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
INTERNAL, SERVER, CLIENT = 1, 2, 3
ERROR = 2


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


@pytest.fixture
def inn(tmp_path: Path, collector: Collector, quick: None) -> Iterator[Inn]:
    flags = {"data_dir": tmp_path, "otlp_endpoint": f"{collector.url}/", "otel_service_name": "my-inn"}
    app = ServerBase(settings=load_settings(flags))
    handle(app)
    with serve_inn(app) as running:
        yield running


@pytest.fixture
def http(inn: Inn) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=inn.url, timeout=20) as client:
        yield client


def test_a_run_is_exported_with_the_ids_and_times_that_its_trace_tells(
    http: httpx2.Client, collector: Collector
) -> None:
    http.post("/chat", json={"input": "Hi", "agent_name": "busy"}, headers=PARENT)
    told = http.get(f"/api/observability/traces/{TRACE}").json()["spans"]
    found = {span.span_id.hex(): span for span in collector.of_trace(TRACE, len(told))}
    assert found.keys() == {one["span_id"] for one in told}
    for one in told:
        span = found[one["span_id"]]
        assert (span.parent_span_id.hex() or None) == one["parent_id"]
        took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000_000
        assert took == pytest.approx(one["duration_ms"], abs=0.001)
    assert collector.paths == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "my-inn"


def test_spans_have_the_names_of_the_conventions_for_generative_ai(http: httpx2.Client, collector: Collector) -> None:
    body = {"input": "Hi", "agent_name": "busy", "session_id": "s"}
    trace_id = http.post("/chat", json=body).json()["trace_id"]
    found = {span.name: span for span in collector.of_trace(trace_id, 6)}
    run, agent = found["run busy"], found["invoke_agent busy"]
    model, tool = found["chat a-model"], found["execute_tool lookup"]
    assert (run.kind, agent.kind, model.kind, tool.kind) == (SERVER, INTERNAL, CLIENT, INTERNAL)
    assert attributes(run)["gen_ai.conversation.id"] == "s"
    assert "gen_ai.usage.input_tokens" not in attributes(run)
    assert attributes(agent) == {
        "innkeeper.span.kind": "agent",
        "innkeeper.attempt": 1,
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "busy",
        "gen_ai.response.model": "a-model",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
    }
    assert attributes(tool)["gen_ai.tool.name"] == "lookup"
    assert (tool.status.code, attributes(tool)["error.type"]) == (ERROR, "tool_error")


def test_commands_and_reactions_are_exported(http: httpx2.Client, collector: Collector) -> None:
    session = http.post("/api/sessions", json={}).json()["session_id"]
    body = {"command_type": "Chain", "parameters": {"a": 1}}
    command = http.post(f"/api/sessions/{session}/commands", json=body, params={"wait": 10}).json()
    found = {span.name: span for span in collector.of_trace(command["trace_id"], 5)}
    root = found["command Chain"]
    assert root.parent_span_id == b""
    for name in ("handler Chain", "command Add", "handler Ring"):
        assert found[name].parent_span_id == root.span_id


def test_a_failed_run_is_an_error_with_its_code(http: httpx2.Client, collector: Collector) -> None:
    answer = http.post("/chat", json={"input": "Hi", "agent_name": "failing"})
    trace_id = answer.headers["traceparent"].split("-")[1]
    (run,) = [span for span in collector.of_trace(trace_id, 3) if span.name == "run failing"]
    assert run.status.code == ERROR
    assert attributes(run)["error.type"] == "AGENT_FAILED"
    assert "open-sesame" not in str(collector.spans)


def test_what_a_stopping_server_has_not_sent_it_sends_at_once(tmp_path: Path, collector: Collector) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, "otlp_endpoint": collector.url}))
    with serve_inn(app) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        trace_id = http.post("/chat", json={"input": "Hi"}).json()["trace_id"]
    assert len([span for span in collector.spans if span.trace_id.hex() == trace_id]) == 3


@pytest.fixture
def silent_collector() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("is_there", [True, False])
def test_a_collector_that_does_not_answer_delays_neither_answers_nor_the_stop(
    tmp_path: Path, quick: None, silent_collector: str, is_there: bool
) -> None:
    endpoint = silent_collector if is_there else "http://127.0.0.1:9"
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, "otlp_endpoint": endpoint}))
    with serve_inn(app) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        for _ in range(sized(300, 100)):
            began = time.monotonic()
            assert http.post("/chat", json={"input": "Hi"}).status_code == 200
            assert time.monotonic() - began < within(2, 8)
        run = ended(http, http.post("/chat", json={"input": "Hi"}).json()["run_id"])
        assert http.get(f"/api/observability/traces/{run['trace_id']}").status_code == 200
        stopping = time.monotonic()
    assert time.monotonic() - stopping < within(6, 20)


def test_nothing_is_exported_where_nothing_is_traced(tmp_path: Path, collector: Collector) -> None:
    settings = load_settings({"data_dir": tmp_path, "otlp_endpoint": collector.url, "enable_tracing": False})
    assert open_span_sink(settings) is None


def test_the_extra_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    for name in ("innkeeper.telemetry.spans", "opentelemetry.sdk.trace"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    settings = load_settings({"data_dir": tmp_path, "otlp_endpoint": collector.url})
    with pytest.raises(MissingDependency, match=r"OTEL_EXPORTER_OTLP_ENDPOINT needs .*innkeeper\[otel\]"):
        open_span_sink(settings)


@pytest.mark.parametrize("value", ["localhost:4318", "http://", "ftp://host", "http://a host"])
def test_an_endpoint_that_is_no_url_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", value)
    with pytest.raises(SetupError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT.* is wrong: it must be a URL such as"):
        load_settings()


def test_an_empty_endpoint_exports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    assert load_settings().otlp_endpoint is None


def test_the_providers_of_the_process_are_left_to_the_application(http: httpx2.Client, collector: Collector) -> None:
    from opentelemetry import trace

    before: Any = trace.get_tracer_provider()
    http.post("/chat", json={"input": "Hi"}, headers=PARENT)
    assert trace.get_tracer_provider() is before
    assert {span.name for span in collector.of_trace(TRACE, 3)} == {"run echo", "invoke_agent echo", "commit accept"}
