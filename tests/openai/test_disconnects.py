"""Closing the connection is the only Stop that these clients have: the run ends soon after, and keeps what it said."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import openai
import pytest

from tests.openai.hosts import Host
from tests.support.openai_upstream import Reply, Upstream
from tests.support.sizes import within

GO: list[Any] = [{"role": "user", "content": "Go"}]


def ended_run(http: httpx2.Client, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = http.get(f"/runs/{run_id}", params={"wait": 10}).json()
    return run


def test_closed_stream_cancels_the_agent_and_keeps_what_it_said(
    client: openai.OpenAI, http: httpx2.Client, host: Host
) -> None:
    extra = {"grace": 0, "session_id": "left-stream"}
    stream = client.chat.completions.create(model="patient", messages=GO, stream=True, extra_body=extra)
    run_id = stream.response.headers["x-run-id"]
    assert host.began.wait(10)
    for chunk in stream:
        if chunk.choices[0].delta.content == "two ":
            break
    stream.close()
    assert host.cancelled.wait(10), "asyncio.CancelledError reached the agent"
    run = ended_run(http, run_id)
    assert (run["status"], run["output"], run["error"]) == ("cancelled", "One two ", None)
    messages = http.get("/sessions/left-stream").json()["messages"]
    assert [(said["role"], said["content"]) for said in messages] == [("user", "Go"), ("assistant", "One two ")]


def test_abandoned_request_cancels_the_agent(http: httpx2.Client, host: Host) -> None:
    body = {"model": "patient", "messages": GO, "metadata": {"grace": 0, "session_id": "left-whole"}}
    with pytest.raises(httpx2.ReadTimeout):
        http.post("/v1/chat/completions", json=body, timeout=httpx2.Timeout(10, read=1))
    assert host.cancelled.wait(10)
    (run,) = http.get("/runs", params={"session_id": "left-whole"}).json()["runs"]
    ended = ended_run(http, run["id"])
    assert (ended["status"], ended["output"]) == ("cancelled", "One two ")


def test_closed_stream_hangs_up_on_the_model(
    client: openai.OpenAI, http: httpx2.Client, upstream: Upstream, model_agent: str
) -> None:
    upstream.script([Reply("One two", hangs=True)])
    stream = client.chat.completions.create(model=model_agent, messages=GO, stream=True, extra_body={"grace": 0})
    said = ""
    for chunk in stream:
        said += chunk.choices[0].delta.content or ""
        if said == "One two":
            break
    stream.close()
    assert upstream.left.wait(10)
    run = ended_run(http, stream.response.headers["x-run-id"])
    assert (run["status"], run["output"]) == ("cancelled", "One two")


def test_grace_is_five_seconds_unless_the_request_says_otherwise(http: httpx2.Client, host: Host) -> None:
    with http.stream("POST", "/patient/chat/completions", json={"messages": GO, "stream": True}) as answer:
        run_id = answer.headers["x-run-id"]
        assert host.began.wait(10)
    began = time.monotonic()
    assert ended_run(http, run_id)["status"] == "cancelled"
    assert 4 < time.monotonic() - began < within(8, 30)


def test_run_that_is_to_continue_outlives_its_client(http: httpx2.Client, host: Host) -> None:
    body = {"model": "patient", "messages": GO, "stream": True, "on_disconnect": "continue"}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        run_id = answer.headers["x-run-id"]
        assert host.began.wait(10)
    run = http.get(f"/runs/{run_id}", params={"wait": 0.3}).json()
    assert run["status"] == "running"
    assert not host.cancelled.is_set()
    http.post(f"/runs/{run_id}/cancel")
    assert ended_run(http, run_id)["status"] == "cancelled"


def test_another_reader_within_the_grace_keeps_the_run(http: httpx2.Client, host: Host) -> None:
    body = {"model": "patient", "messages": GO, "stream": True, "grace": 1}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        run_id = answer.headers["x-run-id"]
        assert host.began.wait(10)
    with http.stream("GET", f"/runs/{run_id}/events") as events:
        assert http.get(f"/runs/{run_id}", params={"wait": 1.6}).json()["status"] == "running"
        assert events.status_code == 200
    assert host.cancelled.wait(10), "the second reader has left as well"
    assert ended_run(http, run_id)["status"] == "cancelled"


def test_cancelled_run_ends_the_stream_with_an_error(client: openai.OpenAI, http: httpx2.Client, host: Host) -> None:
    stream = client.chat.completions.create(model="patient", messages=GO, stream=True)
    assert host.began.wait(10)
    http.post(f"/runs/{stream.response.headers['x-run-id']}/cancel")
    with pytest.raises(openai.APIError) as failure:
        list(stream)
    assert failure.value.code == "CANCELLED"
