"""Streams of chat completions: the shape of every chunk, and OpenAI's helpers that put them together."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from innkeeper.core.changes import Segment
from innkeeper.core.events import Event, MessageInjected, RunResumed, TextDelta, payload
from innkeeper.core.identity import LOCAL_OWNER
from innkeeper.core.runs import Run, RunStatus
from innkeeper.core.times import Instant
from innkeeper.http.openai.chunks import ChunkEncoder
from tests.openai.hosts import MODEL_AGENTS
from tests.support.openai_upstream import Reply, Upstream

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.parametrize("name", ["echo", *MODEL_AGENTS])
def test_every_chunk_has_the_shape_that_clients_rely_on(client: openai.OpenAI, name: str) -> None:
    chunks = list(client.chat.completions.create(model=name, messages=HELLO, stream=True))
    first, *middle, last = chunks
    assert first.choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].index == 0 for chunk in chunks)
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert last.choices[0].delta.to_dict() == {}
    assert len(middle) >= 2
    assert text_of(chunks).strip() == "You said: Hello"
    assert all(chunk.usage is None for chunk in chunks)


async def test_async_client_streams(async_client: openai.AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(model="echo", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert text_of(chunks) == "You said: Hello "


def test_stream_and_whole_answer_say_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="scripted", messages=HELLO)
    chunks = list(client.chat.completions.create(model="scripted", messages=HELLO, stream=True))
    assert text_of(chunks) == whole.choices[0].message.content


def test_stream_ends_with_done_and_is_never_cached(http: httpx2.Client) -> None:
    answer = http.post("/v1/chat/completions", json={"model": "echo", "messages": HELLO, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    frames = answer.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    assert all(frame.startswith("data: {") for frame in frames[:-2])


@pytest.mark.parametrize("name", MODEL_AGENTS)
def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(client: openai.OpenAI, upstream: Upstream, name: str) -> None:
    upstream.script([Reply("Hi.", usage=(5, 2))])
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(model=name, messages=HELLO, stream=True, stream_options=options))
    *others, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (5, 2, 7)
    assert all(chunk.usage is None and chunk.choices for chunk in others)


def test_usage_is_never_invented(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="echo", messages=HELLO, stream=True, stream_options=options))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_reasoning_is_streamed_as_reasoning_content(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="thinking", messages=HELLO, stream=True))
    deltas = [chunk.choices[0].delta.to_dict() for chunk in chunks]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["Hm. ", "Yes."]
    assert text_of(chunks) == "42"


def test_stream_helper_puts_the_completion_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="scripted", messages=HELLO) as stream:
        kinds = [event.type for event in stream]
        completion = stream.get_final_completion()
    assert kinds[-1] == "content.done"
    assert "content.delta" in kinds
    assert completion.choices[0].message.content == "You said: Hello"
    assert completion.choices[0].finish_reason == "stop"


async def test_async_stream_helper_puts_the_completion_together(async_client: openai.AsyncOpenAI) -> None:
    async with async_client.chat.completions.stream(model="sdk", messages=HELLO) as stream:
        deltas = [event.delta async for event in stream if event.type == "content.delta"]
        completion = await stream.get_final_completion()
    assert "".join(deltas) == completion.choices[0].message.content == "You said: Hello"


def test_failure_in_the_middle_of_a_stream_raises_in_the_client(client: openai.OpenAI) -> None:
    chunks = []
    with pytest.raises(openai.APIError) as failure:
        for chunk in client.chat.completions.create(model="breaking", messages=HELLO, stream=True):
            chunks.append(chunk)
    assert text_of(chunks) == "So far so good."
    assert failure.value.code == "AGENT_FAILED"
    assert failure.value.type == "server_error"
    assert "open-sesame" not in failure.value.message


def test_failed_stream_still_ends_with_done(http: httpx2.Client) -> None:
    answer = http.post("/v1/chat/completions", json={"model": "breaking", "messages": HELLO, "stream": True})
    *_, error, done, rest = answer.text.split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"].keys() >= {"message", "type", "param", "code"}
    assert (done, rest) == ("data: [DONE]", "")
    assert 'finish_reason":"stop' not in answer.text


def test_same_run_is_encoded_alike_for_native_readers(http: httpx2.Client) -> None:
    answer = http.post("/v1/chat/completions", json={"model": "echo", "messages": HELLO, "stream": True})
    events = http.get(f"/runs/{answer.headers['x-run-id']}/events").text
    assert '"type":"text","content":"You "' in events
    assert events.endswith("data: [DONE]\n\n")


def test_that_a_run_was_taken_up_again_or_steered_is_no_part_of_its_chunks() -> None:
    run = Run(
        id="run_1",
        owner=LOCAL_OWNER,
        user_id="local",
        session_key="key",
        session_id="s",
        agent_name="echo",
        endpoint="/v1/chat/completions",
        status=RunStatus.RUNNING,
        turn=1,
        created_at=Instant(0),
    )
    told: tuple[Event, ...] = (
        RunResumed(2, 5, is_restart=True),
        MessageInjected("Hush", "inj_1"),
        MessageInjected("Hi", "inj_2", True),
    )
    text = payload(TextDelta("Hello"))
    encoded = ChunkEncoder(run)([Segment(7, 5, b"\n".join((text, *map(payload, told), text)))])
    assert encoded == ChunkEncoder(run)([Segment(7, 2, b"\n".join((text, text)))])
