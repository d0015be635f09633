"""Hostile answers: whatever a server or something before it says, a client neither breaks in words nor in memory."""

from __future__ import annotations

import asyncio
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from innkeeper.client import AsyncChatServerClient, ChatServerClient, exceptions
from innkeeper_client import frames, transports
from innkeeper_client.exceptions import error_of_answer
from innkeeper_client.frames import Frames
from tests.support.inns import Inn, Json
from tests.support.scripted_servers import Told, answer, head, in_turn, scripted_server

STREAMED = {"content-type": "text/event-stream"}
COMPLETION: Json = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}],
}
LOG: Json = dict.fromkeys(("id", "agent_name", "session_id", "user_id", "endpoint", "status", "run_id"), "")
WORD = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"One"}}]}\n\n'


@pytest.mark.parametrize("usage", [{"prompt_tokens": "a", "completion_tokens": 1}, {"prompt_tokens": [1]}])
def test_usage_that_is_no_number_is_told_as_such(usage: Json) -> None:
    with (
        scripted_server(in_turn(answer(200, {**COMPLETION, "usage": usage}))) as server,
        ChatServerClient(base_url=server.url) as client,
        pytest.raises(exceptions.ChatServerError, match="prompt_tokens") as caught,
    ):
        client.create_completion("m", ["Hi"])
    assert caught.value.code == "INVALID_RESPONSE"


def test_number_that_is_too_large_is_told_as_such() -> None:
    row = {**LOG, "timestamp": "2026-01-01T00:00:00Z", "response_time_ms": 10**400}
    with (
        scripted_server(in_turn(answer(200, {"logs": [row], "total": 1}))) as server,
        ChatServerClient(base_url=server.url) as client,
        pytest.raises(exceptions.ChatServerError, match="response_time_ms"),
    ):
        client.logs.list()


@pytest.mark.parametrize(
    "date", ["1 Jan 99999999999999999999999 00:00:00", "Mon, 01 Jan 2024 00:00:00 +9999999999999999999", "-5", "nan"]
)
def test_dates_that_no_clock_knows_are_passed_over(date: str) -> None:
    assert error_of_answer(503, {"retry-after": date}, b"").retry_after is None


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://host:99999", "http://host:abc", "http://ho st", "http://exa\tmple.com", "http://h:0"]
)
def test_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        ChatServerClient(base_url=url)


def test_password_in_the_address_does_not_take_the_place_of_the_api_key() -> None:
    with pytest.raises(ValueError, match="api_key"):
        ChatServerClient("ik_key", base_url="http://ann:pw@localhost")


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, float("nan"), -1])
def test_timeout_that_no_socket_knows_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        ChatServerClient(timeout=timeout)


def test_api_key_is_not_carried_to_where_a_server_redirects() -> None:
    with scripted_server(in_turn(answer(200))) as other:
        moved = answer(307, headers={"location": f"{other.url}/v1/models"})
        with (
            scripted_server(in_turn(moved)) as server,
            ChatServerClient("ik_key", base_url=server.url) as client,
            pytest.raises(exceptions.ChatServerError) as caught,
        ):
            client.list_models()
        assert (caught.value.status_code, other.seen) == (307, [])


def bomb(status: int) -> Told:
    """64 MiB, as a few kilobytes."""
    headers = {"content-encoding": "gzip", "content-type": "text/html"}
    return Told(head(status, headers) + gzip.compress(bytes(64 << 20), 1))


def test_of_an_error_that_unpacks_without_an_end_only_the_beginning_is_read() -> None:
    with (
        scripted_server(in_turn(bomb(502))) as server,
        ChatServerClient(base_url=server.url, max_retries=0) as client,
        pytest.raises(exceptions.InternalServerError) as caught,
    ):
        client.list_models()
    assert len(caught.value.body) == transports.MAX_ERROR


async def test_async_clients_keep_the_same_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "MAX_ANSWER", 1 << 20)
    with scripted_server(in_turn(bomb(502), bomb(200))) as server:
        async with AsyncChatServerClient(base_url=server.url, max_retries=0) as client:
            with pytest.raises(exceptions.InternalServerError) as caught:
                await client.list_models()
            assert len(caught.value.body) == transports.MAX_ERROR
            with pytest.raises(exceptions.ChatServerError, match="an answer of more than"):
                await client.list_models()


def test_answer_that_unpacks_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "MAX_ANSWER", 1 << 20)
    with (
        scripted_server(in_turn(bomb(200))) as server,
        ChatServerClient(base_url=server.url) as client,
        pytest.raises(exceptions.ChatServerError, match="an answer of more than"),
    ):
        client.list_models()


@pytest.mark.parametrize("begin", [b"data:\n\n", b"data\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf:\n\n", b"event: x\n\n"])
def test_events_that_say_nothing_are_passed_over(begin: bytes) -> None:
    told = Told(head(200, STREAMED) + begin + WORD + b"data: [DONE]\n\n")
    with scripted_server(in_turn(told)) as server, ChatServerClient(base_url=server.url) as client:
        assert list(client.create_completion("m", ["Hi"], stream=True)) == ["One"]


def test_data_of_several_lines_is_one_event_in_whichever_pieces_it_comes() -> None:
    sent = 'id: 7\r\ndata: {"a":\r\ndata: "ü🦊"}\r\n\r\n'.encode()
    reading = Frames()
    (frame,) = [frame for at in range(len(sent)) for frame in reading.feed(sent[at : at + 1])]
    assert (frame.id, json.loads(frame.data)) == ("7", {"a": "ü🦊"})


@pytest.mark.parametrize("line", [b"data:\n", b"data: x\n", b"x"])
def test_event_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME", 10_000)
    reading = Frames()
    with pytest.raises(exceptions.ChatServerError, match="an event of more than"):
        for _ in range(20_000):
            reading.feed(line)


def test_events_without_number_are_not_held_against_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME", 1000)
    reading = Frames()
    assert sum(len(reading.feed(b": keep-alive\n\ndata: x\n\nda")) + len(reading.feed(b"ta: y\n\n")) for _ in range(99))


def test_client_of_another_event_loop_is_told_why(inn: Inn) -> None:
    client = AsyncChatServerClient(base_url=inn.url)

    async def ask() -> Any:
        try:
            return await client.list_models()
        finally:
            await asyncio.sleep(0)

    async def ask_and_close() -> None:
        await ask()
        await client.close()

    asyncio.run(ask_and_close())
    with pytest.raises(RuntimeError, match="for each loop"):
        asyncio.run(ask())


def test_resumed_stream_that_is_cut_before_its_first_word_begins_behind_the_pause() -> None:
    cut = Told(head(200, {**STREAMED, "x-run-id": "run_1", "x-run-cursor": "4"}))
    done = {"type": "done", "session_id": "s", "status": "completed"}
    rest = Told(head(200, STREAMED) + f"id: 5\ndata: {json.dumps(done)}\n\ndata: [DONE]\n\n".encode())
    with scripted_server(in_turn(cut, rest)) as server, ChatServerClient(base_url=server.url) as client:
        assert [event.seq for event in client.runs.resume_stream("run_1", decision="approve")] == [5]
    assert [asked.target for asked in server.seen] == ["/runs/run_1/resume", "/runs/run_1/events?after=4"]


def test_stream_that_is_closed_by_another_thread_ends(inn: Inn, client: ChatServerClient) -> None:
    performance = inn.conduct("slowly")
    stream = client.create_completion("conducted", ["slowly"], stream=True)
    performance.say("One ")
    assert next(stream) == "One "
    with ThreadPoolExecutor(1) as others:
        rest = others.submit(list, stream)
        assert performance.began.wait(10) and not rest.done()
        stream.close()
        assert rest.result(10) == []
    assert performance.cancelled.wait(10)


async def test_async_stream_that_is_closed_by_another_task_ends(inn: Inn, async_client: AsyncChatServerClient) -> None:
    performance = inn.conduct("slowly, too")
    stream = await async_client.create_completion("conducted", ["slowly, too"], stream=True)
    performance.say("One ")
    assert await anext(stream) == "One "
    rest = asyncio.create_task(anext(stream, "nothing"))
    await asyncio.sleep(0)
    await stream.close()
    assert await asyncio.wait_for(rest, 10) == "nothing"
    assert await asyncio.to_thread(performance.cancelled.wait, 10)
