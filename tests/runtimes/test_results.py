"""Results: everything that an agent's code may return or yield, as events."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse

from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import (
    AgentEvent,
    FinishNoted,
    MessageInjected,
    ReasoningDelta,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.core.usage import Usage
from innkeeper.runtimes.functions import FunctionRuntime
from innkeeper.runtimes.results import ErrorChunk, UnreadableResult
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.testing.runtimes import play

Collect = Callable[..., Awaitable[list[AgentEvent]]]


def chunk(delta: Any = None, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk as OpenAI sends it; without a delta it has no choices."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-x"}
    return {**head, "choices": choices, **more}


async def events_of(*items: Any) -> list[AgentEvent]:
    async def agent() -> AsyncIterator[Any]:
        for item in items:
            yield item

    return await play(FunctionRuntime(agent, "agent", RuntimeSettings()))


async def returned(result: Any, context: RunContext | None = None) -> list[AgentEvent]:
    async def agent() -> Any:
        return result

    return await play(FunctionRuntime(agent, "agent", RuntimeSettings()), context=context)


def text(events: list[AgentEvent]) -> str:
    return "".join(event.content for event in events if isinstance(event, TextDelta))


CHUNKS = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "Hm."}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo"}),
    chunk({}, "stop"),
    chunk(usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
]
EVENTS = [
    ReasoningDelta("Hm."),
    TextDelta("Hel"),
    TextDelta("lo"),
    FinishNoted("stop"),
    UsageReported(Usage(3, 2, "gpt-x")),
]


async def test_openai_chunks_are_read_as_dicts_and_as_objects() -> None:
    assert await events_of(*CHUNKS) == EVENTS
    assert await events_of(*(ChatCompletionChunk.model_validate(one) for one in CHUNKS)) == EVENTS


async def test_a_whole_completion_is_read_as_dict_and_as_object() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    message = {"role": "assistant", "content": "Hello", "refusal": None, "tool_calls": [call]}
    completion = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-x",
        "choices": [{"index": 0, "message": message, "finish_reason": "length", "logprobs": None}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    expected = [
        TextDelta("Hello"),
        ToolCalled("add", "c1", '{"a":1}'),
        FinishNoted("length"),
        UsageReported(Usage(3, 2, "gpt-x")),
    ]
    assert await returned(completion) == expected
    assert await returned(ChatCompletion.model_validate(completion)) == expected


async def test_tool_calls_are_put_together_by_their_index() -> None:
    def part(index: int, call_id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
        return {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}

    assert await events_of(
        chunk({"tool_calls": [part(0, "c1", "add", ""), part(1, "c2", "mul", '{"b"')]}),
        chunk({"tool_calls": [part(0, None, None, '{"a":')]}),
        chunk({"tool_calls": [part(1, None, None, ":2}")]}),
        chunk({"tool_calls": [part(0, None, None, "1}")]}),
        chunk({}, "tool_calls"),
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
    ) == [
        ToolCalled("add", "c1", '{"a":1}'),
        ToolCalled("mul", "c2", '{"b":2}'),
        ToolReturned("add", "c1", "one"),
    ]


async def test_a_provider_that_gives_every_call_the_same_index_is_understood() -> None:
    calls = [{"index": 0, "id": f"c{n}", "function": {"name": "add", "arguments": "{}"}} for n in (1, 2)]
    events = await events_of(*(chunk({"tool_calls": [call]}) for call in calls))
    assert events == [ToolCalled("add", "c1", "{}"), ToolCalled("add", "c2", "{}")]


async def test_a_call_that_is_marked_is_the_client_s() -> None:
    call = {"index": 0, "id": "c1", "client_side": True, "function": {"name": "add", "arguments": "{}"}}
    assert await events_of(chunk({"tool_calls": [call]}), chunk({}, "tool_calls")) == [
        ToolCalled("add", "c1", "{}", is_client_side=True),
        FinishNoted("tool_calls"),
    ]


async def test_usage_that_grows_with_every_chunk_of_a_completion_counts_once() -> None:
    def counted(completion: str, tokens: int) -> dict[str, Any]:
        usage = {"prompt_tokens": 3, "completion_tokens": tokens}
        return chunk({"content": "x"}, id=completion, usage=usage)

    assert await events_of(counted("a", 1), counted("a", 2), counted("b", 5), chunk({"content": "y"})) == [
        TextDelta("x"),
        TextDelta("x"),
        UsageReported(Usage(3, 2, "gpt-x")),
        TextDelta("x"),
        UsageReported(Usage(3, 5, "gpt-x")),
        TextDelta("y"),
    ]


async def test_a_chunk_may_say_several_things() -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "add", "arguments": "{}"}}
    assert await events_of(
        chunk({"content": "a"}),
        chunk({"content": "b", "reasoning_content": "Hm."}),
        chunk({"content": "c", "tool_calls": [call]}),
        chunk({"content": "d"}, "length"),
    ) == [
        TextDelta("a"),
        ReasoningDelta("Hm."),
        TextDelta("b"),
        TextDelta("c"),
        TextDelta("d"),
        ToolCalled("add", "c1", "{}"),
        FinishNoted("length"),
    ]


async def test_only_the_first_of_several_choices_is_told() -> None:
    both = [{"index": n, "delta": {"content": str(n)}} for n in (0, 1)]
    assert await events_of({**chunk(), "choices": both}) == [TextDelta("0")]


async def test_the_server_s_own_events_are_read_as_dicts() -> None:
    assert await events_of(
        {"type": "run", "run_id": "r", "session_id": "s", "agent_name": "a"},
        {"type": "text", "content": "a"},
        {"type": "reasoning", "content": "b"},
        {"type": "step", "step_number": 1, "status": "started"},
        {"type": "tool_call", "tool_name": "t", "tool_call_id": "c", "arguments": {"x": "ü"}},
        {"type": "tool_result", "tool_call_id": "c", "error": "no", "duration_ms": 2},
        {"type": "message_injected", "content": "stop", "injection_id": "i"},
        {"type": "usage", "input_tokens": 1, "output_tokens": 2, "model": "m"},
        {"type": "done", "status": "completed", "usage": {"input_tokens": 1, "output_tokens": 2}},
    ) == [
        TextDelta("a"),
        ReasoningDelta("b"),
        StepChanged(1, "started"),
        ToolCalled("t", "c", '{"x": "ü"}'),
        ToolReturned("t", "c", None, "no", 2.0),
        MessageInjected("stop", "i"),
        UsageReported(Usage(1, 2, "m")),
    ]


async def test_core_events_go_through_as_they_are() -> None:
    events: list[AgentEvent] = [TextDelta("a"), ToolCalled("t", "c", "{}"), FinishNoted("length")]
    assert await events_of(*events) == events


async def test_events_of_the_agents_sdk_are_read() -> None:
    call = SimpleNamespace(
        type="tool_call_item", raw_item=SimpleNamespace(name="add", call_id="c1", arguments='{"a":1}')
    )
    output = SimpleNamespace(type="tool_call_output_item", raw_item={"call_id": "c1"}, output=3)
    usage = SimpleNamespace(input_tokens=7, output_tokens=8)
    raw = [
        SimpleNamespace(type="response.function_call_arguments.delta", delta='{"a"'),
        SimpleNamespace(type="response.reasoning_summary_text.delta", delta="Hm."),
        SimpleNamespace(type="response.output_text.delta", delta="3"),
        SimpleNamespace(type="response.completed", response=SimpleNamespace(usage=usage, model="gpt-x")),
    ]
    assert await events_of(
        SimpleNamespace(type="run_item_stream_event", name="tool_called", item=call),
        SimpleNamespace(type="run_item_stream_event", name="tool_output", item=output),
        *(SimpleNamespace(type="raw_response_event", data=data) for data in raw),
    ) == [
        ToolCalled("add", "c1", '{"a":1}'),
        ToolReturned("add", "c1", 3),
        ReasoningDelta("Hm."),
        TextDelta("3"),
        UsageReported(Usage(7, 8, "gpt-x")),
    ]


@dataclasses.dataclass
class Point:
    x: int


class Answer(BaseModel):
    score: float


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (5, "5"),
        (True, "true"),
        ({"a": [1, None], "ü": "x"}, '{"a": [1, null], "ü": "x"}'),
        ({"type": "point", "x": 1}, '{"type": "point", "x": 1}'),
        ({"type": "step", "x": 1}, '{"type": "step", "x": 1}'),
        ({"error": "x", "at": 3}, '{"error": "x", "at": 3}'),
        (["a", "b"], '["a", "b"]'),
        (Point(1), '{"x": 1}'),
        (Answer(score=0.5), '{"score": 0.5}'),
        ([Answer(score=1)], '[{"score": 1.0}]'),
        (SimpleNamespace(final_output="done"), "done"),
        (SimpleNamespace(output=Answer(score=2)), '{"score": 2.0}'),
        (SimpleNamespace(output=["a"]), '["a"]'),
        (SimpleNamespace(content="text"), "text"),
        (SimpleNamespace(content=[{"type": "text", "text": "a"}, {"type": "image"}]), "a"),
        (SimpleNamespace(output=None), ""),
        ({"role": "assistant", "content": [{"type": "text", "text": "a"}]}, "a"),
        ("ü".encode(), "ü"),
        (JSONResponse({"choices": [{"message": {"content": "hello"}}]}), "hello"),
        (JSONResponse([1, 2]), "[1,2]"),
        (PlainTextResponse("hello"), "hello"),
    ],
)
async def test_any_other_result_becomes_its_text(result: Any, shown: str) -> None:
    assert text(await returned(result)) == shown


async def test_a_result_object_reports_its_usage() -> None:
    usage = SimpleNamespace(input_tokens=1, output_tokens=2)
    for result in (
        SimpleNamespace(output="x", usage=usage),
        SimpleNamespace(output="x", usage=lambda: usage),
        SimpleNamespace(final_output="x", context_wrapper=SimpleNamespace(usage=usage)),
    ):
        assert await returned(result) == [TextDelta("x"), UsageReported(Usage(1, 2))]


async def test_bytes_may_be_cut_inside_a_character() -> None:
    raw = "aü🦊".encode()
    assert text(await events_of(*(raw[place : place + 1] for place in range(len(raw))))) == "aü🦊"
    assert text(await events_of(raw[:-1])) == "aü\ufffd"


async def test_a_result_without_any_text_is_refused_by_its_type() -> None:
    with pytest.raises(UnreadableResult, match="of type object"):
        await returned(object())
    with pytest.raises(AgentFailed, match="FileResponse, which has no text"):
        await returned(FileResponse("somewhere"))


@pytest.mark.parametrize(
    "item",
    [
        {"error": {"message": "no credit", "code": "insufficient_quota"}},
        {"error": "no credit"},
        {"type": "error", "error": {"code": "insufficient_quota", "message": "no credit"}},
        {"type": "error", "message": "no credit", "code": "insufficient_quota"},
        StreamingResponse(iter(["event: error\ndata: no credit\n\n"]), media_type="text/event-stream"),
        StreamingResponse(iter(['data: {"error": {"message": "no credit"}}\n\n']), media_type="text/event-stream"),
    ],
)
async def test_an_error_chunk_fails_the_run(item: Any) -> None:
    with pytest.raises(ErrorChunk, match="no credit"):
        await events_of("so far", item, "never told")


async def test_a_response_with_the_status_of_an_error_fails_the_run() -> None:
    with pytest.raises(ErrorChunk, match="status 503"):
        await returned(PlainTextResponse("busy", status_code=503))


async def test_a_streamed_response_of_text_is_read_and_kept(make_context: Callable[..., RunContext]) -> None:
    async def body() -> AsyncIterator[str | bytes]:
        yield "Hel"
        yield "lo ü".encode()[:-1]
        yield "ü".encode()[-1:]

    response, context = StreamingResponse(body()), make_context()
    assert text(await returned(response, context)) == "Hello ü"
    assert context.original_response is response


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
async def test_frames_are_read_however_the_body_is_cut(size: int, line_end: str) -> None:
    frames = [": hello", "", *(line for one in CHUNKS for line in (f"data: {json.dumps(one)}", ""))]
    body = line_end.join([*frames, "id: 7", "data: plain", "data:text ü", "", "data: [DONE]", "", "data: late", ""])
    raw = body.encode()

    def pieces() -> Iterator[bytes]:
        for place in range(0, len(raw), size):
            yield raw[place : place + size]

    response = StreamingResponse(pieces(), media_type="text/event-stream")
    assert await returned(response) == [*EVENTS[:-1], TextDelta("plain\ntext ü"), EVENTS[-1]]


async def test_a_last_frame_without_its_blank_line_is_read() -> None:
    response = StreamingResponse(iter(['data: "a"\n\ndata: "b"']), media_type="text/event-stream; charset=utf-8")
    assert await returned(response) == [TextDelta("a"), TextDelta("b")]


async def test_a_response_body_is_closed_at_done_and_when_the_run_is_left() -> None:
    closed: list[str] = []

    async def body(name: str) -> AsyncIterator[str]:
        try:
            yield "data: a\n\n"
            yield "data: [DONE]\n\n"
            await asyncio.Event().wait()
        finally:
            closed.append(name)

    assert await returned(StreamingResponse(body("done"), media_type="text/event-stream")) == [TextDelta("a")]
    run = asyncio.ensure_future(returned(StreamingResponse(body("left"), media_type="text/plain")))
    await asyncio.wait([run], timeout=0.1)
    run.cancel()
    await asyncio.wait([run])
    assert closed == ["done", "left"]


async def test_streams_inside_streams_are_read_in_place() -> None:
    async def inner() -> AsyncIterator[Any]:
        yield "b"
        yield iter(["c", {"type": "text", "content": "d"}])

    assert text(await events_of("a", inner(), "e")) == "abcde"
