"""Cut streams: wherever a connection breaks, what arrives in the end is the whole text, once."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from innkeeper import ServerBase
from innkeeper.client import AsyncChatServerClient, ChatServerClient, RunEvent, UsageInfo, exceptions
from innkeeper.config import load_settings
from innkeeper.core.events import ReasoningDelta, TextDelta, ToolCalled, ToolReturned, UsageReported
from innkeeper.core.usage import Usage
from innkeeper_client.retries import LASTING
from tests.support.cutting_proxies import cutting_proxy
from tests.support.inns import UNCOUNTED, Json
from tests.support.scripted_servers import Asked, Script, Told, answer, failure, head, in_turn, scripted_server
from tests.support.servers import serve_app
from tests.support.sizes import sized

USAGE = UsageInfo(10, 5, 15, reported=True)
STREAMED = {"content-type": "text/event-stream"}
OFFSETS_APART = sized(1, 7)


@dataclass(frozen=True, slots=True)
class Recording:
    """A run of a real server as both of its streams: the bytes of each, and the run."""

    chunks: bytes
    log: bytes
    run_id: str

    def server(self, cut: int, *, with_length: bool) -> Script:
        """Streams of this run, cut off after so many bytes of each answer; the third connection is left alone."""
        connections = iter([cut, cut])

        def script(asked: Asked) -> Told:
            body = self.chunks if asked.method == "POST" else self._beyond(asked)
            headers = {**STREAMED, "x-run-id": self.run_id, **({"content-length": len(body)} if with_length else {})}
            return Told((head(200, headers) + body)[: next(connections, None)])

        return script

    def _beyond(self, asked: Asked) -> bytes:
        after = int(parse_qs(urlsplit(asked.target).query).get("after", ["0"])[0])
        frames = [frame + b"\n\n" for frame in self.log.split(b"\n\n")[:-1]]
        return b"".join(frames[after:])


@pytest.fixture(scope="module")
def inn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path_factory.mktemp("data"), **UNCOUNTED}))

    @app.agent("fox")
    async def fox(messages: list[Json]) -> AsyncIterator[object]:
        yield TextDelta("Tschüß")
        yield ToolCalled("look", "call-1", "{}")
        yield ToolReturned("look", "call-1", "a fox", None, 1.0)
        yield ReasoningDelta("Hm.")
        yield TextDelta(", 🦊!")
        yield TextDelta("The end.")
        yield UsageReported(Usage(10, 5, "a-model"))

    @app.agent("recites")
    async def recites(messages: list[Json]) -> AsyncIterator[str]:
        chance = random.Random(1)
        for number in range(3000):
            yield f"{number} {'é' * chance.randrange(40)}\n"

    with serve_app(app) as url:
        yield url


@pytest.fixture(scope="module")
def recording(inn: str) -> Recording:
    body = {"model": "fox", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with httpx2.Client(base_url=inn) as http:
        answer = http.post("/v1/chat/completions", json={**body, "stream_options": {"include_usage": True}})
        run_id = answer.headers["x-run-id"]
        return Recording(answer.content, http.get(f"/runs/{run_id}/events").content, run_id)


def said(recording: Recording) -> str:
    frames = [frame.partition(b"data: ")[2] for frame in recording.log.split(b"\n\n")[:-2]]
    return "".join(event["content"] for event in map(json.loads, frames) if event["type"] == "text")


@pytest.mark.parametrize("with_length", [True, False], ids=["broken off", "closed"])
def test_a_completion_cut_at_every_byte_is_whole(recording: Recording, with_length: bool) -> None:
    whole = said(recording)
    length = len(head(200, {**STREAMED, "x-run-id": recording.run_id, "content-length": 1000}) + recording.chunks)
    with httpx2.Client() as http:
        for cut in range(0, length, OFFSETS_APART):
            with scripted_server(recording.server(cut, with_length=with_length)) as server:
                client = ChatServerClient(base_url=server.url, backoff=0, http_client=http)
                stream = client.create_completion("fox", ["Hi"], stream=True)
                assert "".join(stream) == whole, cut
            assert (stream.metadata["finish_reason"], stream.metadata["usage"]) == ("stop", USAGE), cut
            posts = [asked.headers["idempotency-key"] for asked in server.seen if asked.method == "POST"]
            assert len(set(posts)) == 1, cut


def test_a_log_cut_at_every_byte_is_whole(recording: Recording) -> None:
    events = [json.loads(frame.partition(b"data: ")[2]) for frame in recording.log.split(b"\n\n")[:-2]]
    with httpx2.Client() as http:
        for cut in range(0, len(recording.log) + 100, OFFSETS_APART):
            with scripted_server(recording.server(cut, with_length=True)) as server:
                client = ChatServerClient(base_url=server.url, backoff=0, http_client=http)
                found = list(client.runs.events(recording.run_id))
            assert [event.data for event in found] == events, cut
            assert [event.seq for event in found] == list(range(1, len(events) + 1)), cut


def cuts() -> list[int]:
    return [random.Random(cut).randrange(3000, 12_000) for cut in range(10)]


def test_a_completion_cut_ten_times_by_the_network_is_whole(inn: str) -> None:
    with cutting_proxy(inn, cuts()) as proxy, ChatServerClient(base_url=proxy.url, backoff=0.001) as client:
        stream = client.create_completion("recites", ["Go"], stream=True)
        text = "".join(stream)
        assert proxy.cuts == 10
        assert text == client.runs.get(stream.metadata["run_id"]).output


async def test_an_async_completion_cut_ten_times_by_the_network_is_whole(inn: str) -> None:
    with cutting_proxy(inn, cuts()) as proxy:
        async with AsyncChatServerClient(base_url=proxy.url, backoff=0.001) as client:
            stream = await client.create_completion("recites", ["Go"], stream=True)
            text = "".join([piece async for piece in stream])
            assert proxy.cuts == 10
            assert text == (await client.runs.get(stream.metadata["run_id"])).output


def test_a_native_stream_cut_ten_times_tells_every_event_once(inn: str) -> None:
    with cutting_proxy(inn, cuts()) as proxy, ChatServerClient(base_url=proxy.url, backoff=0.001) as client:
        events = list(client.stream("Go", "recites"))
        assert proxy.cuts == 10
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert "".join(event.text for event in events) == events[-1].data["output"]


def streamed(*frames: Json | str, seq: int | None = None, run_id: str | None = None) -> Told:
    """A whole stream, of chunks, or of events from `seq` on."""
    body = ""
    for frame in frames:
        body += "" if seq is None or isinstance(frame, str) else f"id: {seq}\n"
        body += f"data: {frame if isinstance(frame, str) else json.dumps(frame)}\n\n"
        seq = None if seq is None else seq + 1
    return Told(head(200, STREAMED if run_id is None else {**STREAMED, "x-run-id": run_id}) + body.encode())


def chunk(text: str) -> Json:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def event(sequence: int) -> Json:
    return {"event_id": f"e{sequence}", "sequence": sequence, "event_type": "noted", "data": {}}


DONE: Json = {"type": "done", "session_id": "s", "status": "completed", "usage": None, "finish_reason": "stop"}
FAILED: Json = {"type": "error", "error": {"code": "AGENT_FAILED", "message": "No."}}
LEAVING: Json = {"error": {"code": "SHUTTING_DOWN", "type": "server_error", "message": "Leaving."}}


def texts(*texts: str) -> list[Json]:
    return [{"type": "text", "content": text} for text in texts]


def test_a_server_that_leaves_is_gone_on_with_elsewhere() -> None:
    begun = streamed(chunk("One "), LEAVING, "[DONE]", run_id="run_1")
    more = streamed(*texts("One ", "two "), seq=1)
    left = Told(more.data + b'data: {"type":"shutdown","run_id":"run_1","cursor":2}\n\ndata: [DONE]\n\n')
    with (
        scripted_server(in_turn(begun, failure(503), left, streamed(*texts("three."), DONE, seq=3))) as server,
        ChatServerClient(base_url=server.url, backoff=0.001) as client,
    ):
        assert "".join(client.create_completion("m", ["Hi"], stream=True)) == "One two three."
    assert [asked.target for asked in server.seen][1:] == [*["/runs/run_1/events"] * 2, "/runs/run_1/events?after=2"]


@pytest.mark.parametrize(
    ("ending", "kind", "code"),
    [
        (
            [{"type": "error", "error": {"code": "AGENT_FAILED", "message": "No."}}],
            "InternalServerError",
            "AGENT_FAILED",
        ),
        ([{**DONE, "status": "cancelled"}], "ConflictError", "CANCELLED"),
        ([{**DONE, "status": "interrupted"}], "InternalServerError", "INTERRUPTED"),
    ],
)
def test_a_run_that_failed_while_nobody_listened_raises(ending: list[Json], kind: str, code: str) -> None:
    begun = streamed(chunk("One "), run_id="run_1")
    with (
        scripted_server(in_turn(begun, streamed(*texts("One ", "two."), *ending, seq=1))) as server,
        ChatServerClient(base_url=server.url) as client,
    ):
        stream = client.create_completion("m", ["Hi"], stream=True)
        assert next(stream) + next(stream) == "One two."
        with pytest.raises(getattr(exceptions, kind)) as caught:
            next(stream)
    assert caught.value.code == code


def test_a_server_that_always_cuts_without_a_word_is_given_up() -> None:
    begun = streamed(chunk("One "), run_id="run_1")
    with (
        scripted_server(in_turn(begun, streamed(*texts("One "), seq=1))) as server,
        ChatServerClient(base_url=server.url, backoff=0) as client,
    ):
        stream = client.create_completion("m", ["Hi"], stream=True)
        assert next(stream) == "One "
        with pytest.raises(exceptions.APIConnectionError):
            next(stream)
    assert len(server.seen) == 1 + LASTING


def test_a_stream_of_a_server_that_names_no_run_is_not_resumed() -> None:
    with scripted_server(in_turn(streamed(chunk("One ")))) as server, ChatServerClient(base_url=server.url) as client:
        stream = client.create_completion("m", ["Hi"], stream=True)
        assert next(stream) == "One "
        with pytest.raises(exceptions.APIConnectionError, match="closed the stream before its end"):
            next(stream)
    assert len(server.seen) == 1


def test_a_stream_falls_silent_and_is_taken_up_again() -> None:
    begun = Told(streamed(chunk("One "), run_id="run_1").data, holds=5)
    with (
        scripted_server(in_turn(begun, streamed(*texts("One ", "two."), DONE, seq=1))) as server,
        ChatServerClient(base_url=server.url, timeout=0.2) as client,
    ):
        assert "".join(client.create_completion("m", ["Hi"], stream=True)) == "One two."


@pytest.mark.parametrize("nonsense", ["{", "[]", '{"choices": [1]}', '{"choices": [{"delta": {"content": 7}}]}'])
def test_nonsense_in_a_stream_is_told_as_such(nonsense: str) -> None:
    told = streamed(chunk("One "), nonsense, run_id="run_1")
    with scripted_server(in_turn(told)) as server, ChatServerClient(base_url=server.url) as client:
        stream = client.create_completion("m", ["Hi"], stream=True)
        assert next(stream) == "One "
        with pytest.raises(exceptions.ChatServerError) as caught:
            next(stream)
    assert caught.value.code == "INVALID_RESPONSE"


def test_lines_may_end_as_on_windows_and_comments_say_nothing() -> None:
    told = streamed(chunk("One "), chunk("two."), "[DONE]")
    data = told.data.replace(b"\n\n", b"\r\n\r\n: keep-alive\r\n\r\n")
    with scripted_server(in_turn(Told(data))) as server, ChatServerClient(base_url=server.url) as client:
        assert list(client.create_completion("m", ["Hi"], stream=True)) == ["One ", "two."]


def test_a_run_that_failed_can_be_read_as_a_log() -> None:
    failed = [FAILED, {**DONE, "status": "failed"}]
    told = streamed(*failed, "[DONE]", seq=1)
    with scripted_server(in_turn(told)) as server, ChatServerClient(base_url=server.url) as client:
        assert list(client.runs.events("run_1")) == [
            RunEvent(1, "error", failed[0]),
            RunEvent(2, "done", failed[1]),
        ]


def test_events_that_a_server_repeats_are_told_once() -> None:
    begun = Told(streamed(*texts("One "), seq=1, run_id="run_1").data)
    again = streamed(*texts("One ", "two."), DONE, "[DONE]", seq=1)
    with (
        scripted_server(in_turn(begun, again)) as server,
        ChatServerClient(base_url=server.url) as client,
    ):
        assert [event.seq for event in client.stream("Hi")] == [1, 2, 3]


@pytest.mark.parametrize("away", [failure(503), Told(b"", resets=True)])
def test_streams_wait_for_a_server_that_restarts_for_longer_than_a_request_does(away: Told) -> None:
    first, second = (answer(200, {"events": [event(sequence)], "total": 2}) for sequence in (1, 2))
    with (
        scripted_server(in_turn(first, *[away] * 8, second)) as server,
        ChatServerClient(base_url=server.url, backoff=0) as client,
        client.events("s", poll_interval=0.001) as events,
    ):
        assert [next(events).sequence, next(events).sequence] == [1, 2]
    begun = streamed(chunk("One "), run_id="run_1")
    rest = streamed(*texts("One ", "two."), DONE, seq=1)
    with (
        scripted_server(in_turn(begun, *[away] * 8, rest)) as server,
        ChatServerClient(base_url=server.url, backoff=0) as client,
    ):
        assert list(client.create_completion("m", ["Hi"], stream=True)) == ["One ", "two."]


def test_events_of_a_server_that_was_never_reached_are_given_up_as_any_request() -> None:
    with (
        scripted_server(in_turn(failure(503))) as server,
        ChatServerClient(base_url=server.url, backoff=0) as client,
        pytest.raises(exceptions.InternalServerError),
    ):
        next(client.events("s"))
    assert len(server.seen) == 3


def test_without_retries_a_cut_stream_is_not_taken_up_again() -> None:
    with (
        scripted_server(in_turn(streamed(chunk("One "), run_id="run_1"))) as server,
        ChatServerClient(base_url=server.url, max_retries=0) as client,
    ):
        stream = client.create_completion("m", ["Hi"], stream=True)
        assert next(stream) == "One "
        with pytest.raises(exceptions.APIConnectionError):
            next(stream)
    assert len(server.seen) == 1
