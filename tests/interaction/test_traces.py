"""Traces of runs that another process executes, and of runs whose process died."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.replicas import Replicas, client_of, ended, running_replicas
from tests.support.servers import ServerFactory

AGENTS = '''
import asyncio
from innkeeper import Agent, get_context, register_agent, tool
from innkeeper.core.events import StepChanged, ToolCalled

async def hangs(messages, context):
    """Calls a tool and, in its first attempt, waits for an answer for ever."""
    yield StepChanged(1, "started")
    yield ToolCalled("wait", "call-1", "{}")
    if context.attempt == 1:
        await asyncio.sleep(600)
    yield "Done."

register_agent("hangs", hangs)
'''
Json = dict[str, Any]


async def trace_of(client: httpx2.AsyncClient, trace_id: str, until: str) -> list[Json]:
    """The spans, once there is one of that kind."""
    spans: list[Json] = []
    while until not in [span["kind"] for span in spans]:
        answer = await client.get(f"/api/observability/traces/{trace_id}")
        assert answer.status_code == 200, answer.text
        spans = answer.json()["spans"]
        await asyncio.sleep(0.02)
    return spans


async def ask(client: httpx2.AsyncClient, **fields: Any) -> Json:
    told: Json = (await client.post("/chat", json={"input": "Hi", "background": True, **fields})).json()
    return told


@pytest.fixture
def replicas(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replicas]:
    with running_replicas("postgres", tmp_path, request, AGENTS) as running:
        yield running


async def test_another_process_tells_of_a_run_while_it_goes_on(replicas: Replicas) -> None:
    async with client_of(replicas.one) as one, client_of(replicas.other) as other:
        run = await ask(one)
        here, there = await trace_of(one, run["trace_id"], "tool"), await trace_of(other, run["trace_id"], "tool")
        assert here == there
        assert [span["status"] for span in here if span["kind"] == "tool"] == ["running"]
        await one.post(f"/runs/{run['run_id']}/cancel")
        await ended(other, run["run_id"])
        after = await trace_of(other, run["trace_id"], "run")
    assert [span["status"] for span in after if span["kind"] in ("run", "agent", "tool")] == ["cancelled"] * 3


async def test_a_run_that_a_crash_cut_off_has_a_span_for_each_attempt(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("inn.py", AGENTS)
    server = innkeeper_server("inn.py")
    async with client_of(server) as client:
        run = await ask(client)
        await trace_of(client, run["trace_id"], "tool")
    server.kill()
    server.start()
    async with client_of(server) as client:
        await ended(client, run["run_id"])
        spans = await trace_of(client, run["trace_id"], "run")
    attempts = [span for span in spans if span["kind"] == "agent"]
    assert [(one["attributes"]["attempt"], one["status"]) for one in attempts] == [(1, "interrupted"), (2, "ok")]
    first, second = attempts
    tools = [(one["status"], one["parent_id"]) for one in spans if one["kind"] == "tool"]
    assert ("interrupted", first["span_id"]) in tools
    waits = [one for one in spans if one["kind"] == "queue" and one["started_at"] >= first["started_at"]]
    assert waits, "the time between two attempts is told"
    assert second["started_at"] > first["started_at"]
    (root,) = [one for one in spans if one["kind"] == "run"]
    assert (root["status"], root["attributes"]["attempt"]) == ("ok", 2)
