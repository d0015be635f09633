"""SSE of the native surface: `POST /chat` with `stream`, `POST /chat/stream`, `GET /stream`."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import pytest

from tests.support.inns import Inn, ended, frames, history, said

Ask = Callable[[httpx2.Client, dict[str, str]], httpx2.Response]

WAYS: dict[str, Ask] = {
    "chat": lambda client, body: client.post("/chat", json={**body, "stream": True}),
    "chat/stream": lambda client, body: client.post("/chat/stream", json=body),
    "stream": lambda client, body: client.get("/stream", params=body),
}


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest) -> Ask:
    return WAYS[request.param]


def test_a_stream_tells_everything_that_happens_in_order(http: httpx2.Client, ask: Ask) -> None:
    answer = ask(http, {"agent_name": "busy", "input": "What is it?", "session_id": "s"})
    found = frames(answer.text)
    run_id = answer.headers["x-run-id"]
    assert [frame.seq for frame in found] == list(range(1, len(found) + 1)), "seq is gapless from 1"
    assert [frame.data for frame in found] == [
        {"type": "run", "run_id": run_id, "session_id": "s", "agent_name": "busy"},
        {"type": "step", "step_number": 1, "status": "started"},
        {"type": "reasoning", "content": "Let me look. "},
        {
            "type": "tool_call",
            "tool_name": "lookup",
            "tool_call_id": "call-1",
            "arguments": {"key": "täglich"},
            "client_side": False,
        },
        {
            "type": "tool_result",
            "tool_name": "lookup",
            "tool_call_id": "call-1",
            "result": {"value": 42},
            "error": None,
            "duration_ms": 1.5,
        },
        {
            "type": "tool_call",
            "tool_name": "lookup",
            "tool_call_id": "call-2",
            "arguments": {},
            "client_side": False,
        },
        {
            "type": "tool_result",
            "tool_name": "lookup",
            "tool_call_id": "call-2",
            "result": None,
            "error": "no key",
            "duration_ms": 0.5,
        },
        {"type": "step", "step_number": 1, "status": "completed"},
        {"type": "text", "content": "It is "},
        {"type": "text", "content": "42."},
        {"type": "usage", "input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "model": "a-model"},
        {
            "type": "done",
            "run_id": run_id,
            "session_id": "s",
            "status": "completed",
            "output": "It is 42.",
            "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
            "finish_reason": "stop",
        },
    ]


def test_a_stream_is_not_cached_and_names_its_run(http: httpx2.Client, ask: Ask) -> None:
    answer = ask(http, {"input": "Hi", "session_id": "headers"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-session-id"] == "headers"
    assert answer.headers["x-run-id"].startswith("run_")
    assert answer.headers["x-request-id"] and answer.headers["x-response-time"]


def test_a_stream_goes_on_in_the_session(http: httpx2.Client, ask: Ask, inn: Inn) -> None:
    session_id = http.post("/chat", json={"input": "One"}).json()["session_id"]
    assert said(frames(ask(http, {"input": "Two", "session_id": session_id}).text)) == "You said: Two "
    assert [message["content"] for message in inn.seen[-1]] == ["One", "You said: One ", "Two"]
    assert history(http, session_id)[2:] == [("user", "Two"), ("assistant", "You said: Two ")]


def test_text_arrives_when_it_is_said(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("arrives")
    with http.stream("POST", "/chat/stream", json={"agent_name": "conducted", "input": "arrives"}) as answer:
        lines = answer.iter_lines()
        for word in ("first", "second"):
            performance.say(word)
            assert next(line for line in lines if '"text"' in line) == f'data: {{"type":"text","content":"{word}"}}'
        performance.end()
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_separators_and_unicode_in_text_break_no_frame(http: httpx2.Client, inn: Inn) -> None:
    told = ["a\n\nb", "data: x\r\n", "\u2028\u0085\x00", "😀\ud83d", '"\\', "[DONE]"]
    performance = inn.conduct("unicode")
    performance.say(*told)
    performance.end()
    answer = http.post("/chat/stream", json={"agent_name": "conducted", "input": "unicode"})
    assert said(frames(answer.content)) == "".join(told).replace("\ud83d", "\ufffd")


def test_silence_is_bridged_by_comments(http: httpx2.Client, inn: Inn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inn.app.kernel.house, "heartbeat_seconds", 0.02)
    performance = inn.conduct("silence")
    with http.stream("POST", "/chat/stream", json={"agent_name": "conducted", "input": "silence"}) as answer:
        lines = answer.iter_lines()
        for _ in range(3):
            assert next(line for line in lines if line.startswith(":")) == ": keep-alive"
        performance.say("Still here.")
        performance.end()
        assert any("Still here." in line for line in lines)


def test_refusals_come_before_the_stream_with_their_status(http: httpx2.Client, ask: Ask) -> None:
    assert ask(http, {"input": " "}).status_code == 422
    unknown = ask(http, {"input": "Hi", "agent_name": "nobody"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "AGENT_NOT_FOUND")


def test_get_without_input_names_it(http: httpx2.Client) -> None:
    answer = http.get("/stream")
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "input")


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 401)]
)
def test_get_refuses_what_a_foreign_page_sends(http: httpx2.Client, site: str, status: int) -> None:
    before = http.get("/runs").json()["runs"]
    answer = http.get("/stream", params={"input": "Hi"}, headers={"sec-fetch-site": site})
    assert answer.status_code == status
    assert (http.get("/runs").json()["runs"] == before) is (status != 200), "a refused request runs nothing"


def test_client_that_leaves_does_not_end_the_run(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("leaves")
    with http.stream("POST", "/chat/stream", json={"agent_name": "conducted", "input": "leaves"}) as answer:
        assert performance.began.wait(10)
        run_id = answer.headers["x-run-id"]
    performance.say("Said to nobody.")
    performance.end()
    run = ended(http, run_id)
    assert (run["status"], run["output"]) == ("completed", "Said to nobody.")


def test_client_that_leaves_ends_the_run_where_it_asked_for_that(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("cancels")
    performance.say("Partly ")
    body = {"agent_name": "conducted", "input": "cancels", "session_id": "cancels", "on_disconnect": "cancel"}
    with http.stream("POST", "/chat/stream", json=body) as answer:
        next(line for line in answer.iter_lines() if "Partly" in line)
        run_id = answer.headers["x-run-id"]
    assert performance.cancelled.wait(10), "asyncio.CancelledError reaches the agent"
    run = ended(http, run_id)
    assert (run["status"], run["output"]) == ("cancelled", "Partly ")
    assert history(http, "cancels") == [("user", "cancels"), ("assistant", "Partly ")]


def test_grace_gives_the_client_time_to_return(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("returns")
    body = {"agent_name": "conducted", "input": "returns", "on_disconnect": "cancel", "grace": 1}
    with http.stream("POST", "/chat/stream", json=body) as answer:
        assert performance.began.wait(10)
        run_id = answer.headers["x-run-id"]
    with http.stream("GET", f"/runs/{run_id}/events"):
        assert not performance.cancelled.wait(1.6), "somebody reads it again"
    assert performance.cancelled.wait(10), "the second reader has left as well"
    assert ended(http, run_id)["status"] == "cancelled"


def test_client_that_waits_and_leaves_ends_the_run_where_it_asked_for_that(http: httpx2.Client, inn: Inn) -> None:
    performance = inn.conduct("gives up")
    body = {"agent_name": "conducted", "input": "gives up", "session_id": "gave-up", "on_disconnect": "cancel"}
    with pytest.raises(httpx2.ReadTimeout):
        http.post("/chat", json=body, timeout=httpx2.Timeout(10, read=1))
    assert performance.cancelled.wait(10)
    (run,) = http.get("/runs", params={"session_id": "gave-up"}).json()["runs"]
    assert ended(http, run["id"])["status"] == "cancelled"
