"""Shared clients: many streams at once, several readers of one, and what is left behind when a client is closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from innkeeper.client import AsyncChatServerClient, ChatServerClient, CompletionStream
from innkeeper_client import awaiting, model_list
from tests.support.inns import Inn
from tests.support.scripted_servers import Asked, Told, head, in_turn, scripted_server

WORD = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"One"}}]}\n\n'
BEGUN = head(200, {"content-type": "text/event-stream", "x-run-id": "run_1"}) + WORD
MODELS = b'HTTP/1.1 200 -\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"data":[]}'


def _trickle(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 -\r\nslowly: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)


@contextlib.contextmanager
def many_connections() -> Iterator[str]:
    """A server that begins each stream and ends none, has no models, and says something for ever when it is left."""
    kept: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                kept.append(listener.accept()[0])
                asked = kept[-1].recv(65536)
                if asked.startswith(b"POST /runs/"):
                    threading.Thread(target=_trickle, args=(kept[-1],), daemon=True).start()
                else:
                    kept[-1].sendall(MODELS if asked.startswith(b"GET") else BEGUN)

    listener = socket.create_server(("127.0.0.1", 0), backlog=200)
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for each in (listener, *kept):
            each.close()


def test_a_hundred_streams_leave_room_for_a_call() -> None:
    with many_connections() as url, ChatServerClient(base_url=url, timeout=10, max_retries=0) as client:
        streams = [client.create_completion("m", ["Hi"], stream=True) for _ in range(101)]
        assert [next(stream) for stream in streams] == ["One"] * 101
        assert client.list_models().data == []


async def test_a_hundred_awaited_streams_leave_room_for_a_call() -> None:
    with many_connections() as url:
        async with AsyncChatServerClient(base_url=url, timeout=10, max_retries=0) as client:
            streams = [await client.create_completion("m", ["Hi"], stream=True) for _ in range(101)]
            assert [await anext(stream) for stream in streams] == ["One"] * 101
            assert (await client.list_models()).data == []


async def test_a_stream_has_one_reader_at_a_time(inn: Inn, async_client: AsyncChatServerClient) -> None:
    performance = inn.conduct("one reader")
    stream = await async_client.create_completion("conducted", ["one reader"], stream=True)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="being read already"):
        await anext(stream)
    performance.say("One ", "two ")
    assert [await first, await anext(stream)] == ["One ", "two "]
    performance.end()


def test_threads_cannot_disturb_each_other_on_one_stream() -> None:
    said = threading.Event()
    refused: list[str] = []

    def interfere(stream: CompletionStream) -> None:
        try:
            next(stream)
        except RuntimeError as error:
            refused.append(str(error))
        said.set()

    def script(asked: Asked) -> Told:
        if asked.method == "POST":
            return Told(BEGUN, holds=20)
        other = threading.Thread(target=interfere, args=(stream,))
        other.start()
        said.wait(10)
        other.join(10)
        return Told(
            head(200, {"content-type": "text/event-stream"}) + b'id: 1\ndata: {"type":"text","content":"One two"}\n\n'
        )

    with scripted_server(script) as server, ChatServerClient(base_url=server.url, timeout=0.2) as client:
        stream = client.create_completion("m", ["Hi"], stream=True)
        assert [next(stream), next(stream)] == ["One", " two"]
    assert "being read already" in refused[0]


def test_a_stream_outlives_its_client_without_a_complaint() -> None:
    with scripted_server(in_turn(Told(BEGUN, holds=20))) as server:
        client = ChatServerClient(base_url=server.url)
        with client.create_completion("m", ["Hi"], stream=True) as stream:
            assert next(stream) == "One"
            client.close()
        with pytest.raises(RuntimeError, match="closed"):
            client.list_models()


async def test_an_awaited_stream_outlives_its_client_without_a_complaint() -> None:
    with scripted_server(in_turn(Told(BEGUN, holds=20))) as server:
        client = AsyncChatServerClient(base_url=server.url)
        async with await client.create_completion("m", ["Hi"], stream=True) as stream:
            assert await anext(stream) == "One"
            await client.close()


async def test_closing_a_stream_does_not_wait_for_an_answer_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "FAREWELL_SECONDS", 0.3)
    with many_connections() as url:
        async with AsyncChatServerClient(base_url=url) as client:
            stream = await client.create_completion("m", ["Hi"], stream=True)
            assert await anext(stream) == "One"
            async with asyncio.timeout(15):
                await stream.close()


async def test_a_wait_that_is_thrown_away_needs_nobody_to_await_it() -> None:
    with scripted_server(in_turn(Told(BEGUN, holds=20))) as server:
        async with AsyncChatServerClient(base_url=server.url) as client:
            stream = await client.create_completion("m", ["Hi"], stream=True)
            assert await anext(stream) == "One"
            waiting = stream.__anext__()
            waiting.send(None)
            waiting.close()


def test_the_api_key_is_in_no_description_of_a_client() -> None:
    with ChatServerClient("ik_secret_key", "http://127.0.0.1:1/below") as client:
        how = client._line.asking
        assert "ik_secret_key" in str(how.headers)
        for shown in (client, client.runs, how, how.call(model_list.list_models())):
            assert "ik_secret_key" not in repr(shown)
        assert repr(client) == "ChatServerClient(base_url='http://127.0.0.1:1/below')"
