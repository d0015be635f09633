"""`/runs`: what happened, to read again or to follow; a replay is byte-equal to the live stream."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.inns import Inn, ended, frames, history, running_inn, said


def after_frame(body: bytes, seq: int) -> bytes:
    """What a client has still to receive once it has seen the frame with that `seq`."""
    if not seq:
        return body
    head, _, rest = body.partition(b"id: %d\n" % seq)
    assert head or seq == 1
    return rest.partition(b"\n\n")[2]


def test_a_run_tells_what_was_asked_and_answered(http: httpx2.Client) -> None:
    body = {"agent_name": "busy", "input": "Hi", "session_id": "run", "metadata": {"a": 1}}
    run_id = http.post("/chat", json=body).json()["run_id"]
    run = http.get(f"/runs/{run_id}").json()
    times = [run.pop(name) for name in ("created_at", "started_at", "ended_at")]
    assert times == sorted(times) and all(time.endswith("Z") for time in times)
    assert run == {
        "id": run_id,
        "agent_name": "busy",
        "session_id": "run",
        "user_id": "local",
        "status": "completed",
        "input": [{"role": "user", "content": "Hi"}],
        "output": "It is 42.",
        "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
        "error": None,
        "finish_reason": "stop",
        "steps": 1,
        "background": False,
        "attempt": 1,
        "metadata": {"a": 1},
        "trace_id": run_id.removeprefix("run_"),
    }


def test_a_run_under_way_tells_that(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("under way")
    with http.stream("POST", "/chat/stream", json={"agent_name": "conducted", "input": "under way"}) as answer:
        assert performance.began.wait(10)
        path = f"/runs/{answer.headers['x-run-id']}"
        run = http.get(path).json()
        assert (run["status"], run["output"], run["ended_at"]) == ("running", None, None)
        waited = http.get(path, params={"wait": 0.2}).json()
        assert waited["status"] == "running", "the wait is over before the run"
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lambda: http.get(path, params={"wait": 20}).json())
            performance.end()
            assert waiting.result(10)["status"] == "completed"


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "long"])
def test_wait_out_of_bounds_is_refused(http: httpx2.Client, wait: str) -> None:
    answer = http.get("/runs/any", params={"wait": wait})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "wait")


def test_list_is_newest_first_in_pages_and_filtered(tmp_path: Path) -> None:
    with running_inn(tmp_path) as inn, httpx2.Client(base_url=inn.url) as http:
        made = []
        for agent in ("echo", "failing", "echo", "silent"):
            http.post("/chat", json={"input": "Hi", "agent_name": agent, "session_id": f"of-{agent}"})
            made.append(http.get("/runs", params={"limit": 1}).json()["runs"][0]["id"])

        def found(**filters: Any) -> list[str]:
            return [run["id"] for run in http.get("/runs", params=filters).json()["runs"]]

        newest = made[::-1]
        assert found() == newest
        first = http.get("/runs", params={"limit": 3}).json()
        assert first["has_more"] is True
        assert found(limit=3) + found(limit=3, after=newest[2]) == newest
        assert found(session_id="of-echo") == found(agent_name="echo") == [made[2], made[0]]
        assert found(status="failed") == found(agent_name="failing", status="failed") == [made[1]]
        assert found(status="running") == found(session_id="unknown") == []
        refused = http.get("/runs", params={"status": "dancing"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "status")


@pytest.mark.parametrize("agent", ["busy", "echo", "silent", "breaking", "failing"])
def test_replay_is_byte_equal_to_the_live_stream_from_any_point(http: httpx2.Client, agent: str) -> None:
    live = http.post("/chat/stream", json={"agent_name": agent, "input": "a b c"})
    path = f"/runs/{live.headers['x-run-id']}/events"
    assert http.get(path).content == live.content
    for seq in range(len(frames(live.content)) + 1):
        expected = after_frame(live.content, seq)
        assert http.get(path, params={"after": seq}).content == expected
        assert http.get(path, headers={"last-event-id": str(seq)}).content == expected


def test_replay_beyond_the_end_is_the_end_marker(http: httpx2.Client) -> None:
    run_id = http.post("/chat", json={"input": "Hi"}).json()["run_id"]
    for after in (1000, 2**53):
        assert http.get(f"/runs/{run_id}/events", params={"after": after}).content == b"data: [DONE]\n\n"


def test_what_the_browser_saw_last_counts_more_than_where_it_began(http: httpx2.Client) -> None:
    live = http.post("/chat/stream", json={"input": "a b c"})
    path = f"/runs/{live.headers['x-run-id']}/events?after=1"
    assert http.get(path, headers={"last-event-id": "3"}).content == after_frame(live.content, 3)


@pytest.mark.parametrize("after", ["-1", "x", "1.5", str(2**53 + 1), "9" * 30])
def test_cursor_out_of_bounds_is_refused(http: httpx2.Client, after: str) -> None:
    run_id = http.post("/chat", json={"input": "Hi"}).json()["run_id"]
    assert http.get(f"/runs/{run_id}/events", params={"after": after}).status_code == 422
    assert http.get(f"/runs/{run_id}/events", headers={"last-event-id": after}).status_code == 422


def test_unknown_run_is_404_on_every_route(http: httpx2.Client) -> None:
    for method, path in (
        ("GET", "/runs/no"),
        ("GET", "/runs/no/events"),
        ("POST", "/runs/no/cancel"),
        ("GET", "/runs/%00"),
    ):
        answer = http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "RUN_NOT_FOUND")


async def _following(client: httpx2.AsyncClient, run_id: str, after: int, seen: asyncio.Event) -> bytes:
    body = b""
    async with client.stream("GET", f"/runs/{run_id}/events", params={"after": after}) as answer:
        async for chunk in answer.aiter_raw():
            body += chunk
            seen.set()
    return body


async def test_several_readers_join_a_running_run_anywhere_and_see_the_same_bytes(inn: Inn) -> None:
    performance = inn.conduct("several readers")
    performance.say(*"abcde")
    async with httpx2.AsyncClient(base_url=inn.url, timeout=20) as client:
        body = {"agent_name": "conducted", "input": "several readers"}
        async with client.stream("POST", "/chat/stream", json=body) as live:
            chunks: AsyncIterator[bytes] = live.aiter_raw()
            received = b""
            while b'"e"' not in received:
                received += await anext(chunks)
            run_id, joined = live.headers["x-run-id"], [asyncio.Event() for _ in range(6)]
            readers = [
                asyncio.create_task(_following(client, run_id, after, seen)) for after, seen in enumerate(joined)
            ]
            await asyncio.gather(*(seen.wait() for seen in joined))
            performance.say(*"fghij")
            performance.end()
            async for chunk in chunks:
                received += chunk
        for after, reader in enumerate(readers):
            assert await reader == after_frame(received, after)
    assert said(frames(received)) == "abcdefghij"


def test_slow_reader_holds_up_nobody_and_misses_nothing(http: httpx2.Client, inn: Inn) -> None:
    address = urlsplit(inn.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        body = b'{"agent_name": "flood", "input": "6000", "session_id": "slow"}'
        head = b"POST /chat/stream HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nConnection: close\r\n"
        slow.sendall(head % address.netloc.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        first = slow.recv(1024)
        assert first.startswith(b"HTTP/1.1 200")
        (run,) = http.get("/runs", params={"session_id": "slow"}).json()["runs"]
        assert ended(http, run["id"])["status"] == "completed", "the run does not wait for its reader"
        received = first
        while chunk := slow.recv(1 << 20):
            received += chunk
    replay = http.get(f"/runs/{run['id']}/events").content
    assert len(said(frames(replay))) == 6000 * 1024
    assert received.count(b"data: [DONE]\n\n") == 1
    assert received.count(b"\nid: ") == len(frames(replay))


def test_cancelled_run_keeps_what_it_said(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("is cancelled")
    performance.say("Partly ")
    body = {"agent_name": "conducted", "input": "is cancelled", "session_id": "cancelled"}
    with http.stream("POST", "/chat/stream", json=body) as live:
        chunks = live.iter_raw()
        received = b""
        while b"Partly" not in received:
            received += next(chunks)
        answer = http.post(f"/runs/{live.headers['x-run-id']}/cancel")
        assert (answer.status_code, answer.json()["id"]) == (202, live.headers["x-run-id"])
        received += b"".join(chunks)
    found = frames(received)
    assert performance.cancelled.is_set()
    assert [frame.data["type"] for frame in found] == ["run", "text", "done"]
    assert (found[-1].data["status"], found[-1].data["output"]) == ("cancelled", "Partly ")
    run = ended(http, live.headers["x-run-id"])
    assert (run["status"], run["output"], run["error"]) == ("cancelled", "Partly ", None)
    assert history(http, "cancelled") == [("user", "is cancelled"), ("assistant", "Partly ")]
    assert http.get(f"/runs/{run['id']}/events").content == received


def test_cancelling_what_has_ended_changes_nothing(http: httpx2.Client) -> None:
    run_id = http.post("/chat", json={"input": "Hi"}).json()["run_id"]
    before = http.get(f"/runs/{run_id}").json()
    for _ in range(2):
        answer = http.post(f"/runs/{run_id}/cancel")
        assert (answer.status_code, answer.json()) == (202, before)


def test_caller_that_waits_for_a_cancelled_run_is_told(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("told of cancel")
    with ThreadPoolExecutor(1) as pool:
        body = {"agent_name": "conducted", "input": "told of cancel", "session_id": "told"}
        waiting = pool.submit(lambda: http.post("/chat", json=body))
        assert performance.began.wait(10)
        (run,) = http.get("/runs", params={"session_id": "told"}).json()["runs"]
        http.post(f"/runs/{run['id']}/cancel")
        answer = waiting.result(10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "CANCELLED")
    assert answer.headers["x-run-id"] == run["id"]
