"""A model provider for tests: a real HTTP server that speaks OpenAI's chat completions and Responses.

    with running_upstream() as upstream:
        upstream.script(["Hello.", Reply(calls=(("add", {"a": 1, "b": 2}),)), Reply(status=500)])
        ...  # point a client at upstream.url
        assert upstream.requests[0].body["messages"] == ...

Each request takes the next reply of the script; when none is left, `otherwise` makes one of the last user
message. Streams come in small pieces, tool calls in parallel with their arguments in two halves; the ids of
calls are unique in a conversation.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.servers import serve_app

Json = dict[str, Any]
Finish = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True)
class Reply:
    """What the model says to one request. `calls` are pairs of a tool's name and its arguments.

    `hangs` streams the text and then nothing, until the client leaves; `status` other than 200 is an error.
    """

    text: str = ""
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    reasoning: str = ""
    finish: Finish | None = None
    usage: tuple[int, int] | None = (11, 7)
    status: int = 200
    hangs: bool = False

    @property
    def finish_reason(self) -> Finish:
        return self.finish or ("tool_calls" if self.calls else "stop")


@dataclass(frozen=True)
class Request:
    """A request as it arrived; header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: Json


@dataclass
class Upstream:
    """The provider as the test sees it. `url` is a client's `base_url`; `left` is set when a client hung up."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    otherwise: Callable[[str], str] = "You said: {}".format
    _replies: deque[Reply] = field(default_factory=deque)

    def script(self, replies: Iterable[Reply | str]) -> None:
        """Add to what is answered next; a string is a reply of that text."""
        self._replies.extend(Reply(one) if isinstance(one, str) else one for one in replies)

    def forget(self) -> None:
        """Be as new, for the next test."""
        self.requests, self.left, self._replies = [], threading.Event(), deque()
        self.otherwise = "You said: {}".format

    def take(self, request: Request) -> Reply:
        self.requests.append(request)
        return self._replies.popleft() if self._replies else Reply(self.otherwise(_last_said(request.body)))


@contextmanager
def running_upstream(upstream: Upstream | None = None) -> Iterator[Upstream]:
    """A provider on a loopback port of its own; `upstream` may be one that takes requests in its own way."""
    upstream = upstream or Upstream()
    routes = [
        Route("/v1/chat/completions", _Endpoint(upstream, _chat_body, _chat_frames).answer, methods=["POST"]),
        Route("/v1/responses", _Endpoint(upstream, _response_body, _response_frames).answer, methods=["POST"]),
    ]
    with serve_app(Starlette(routes=routes)) as base:
        upstream.url = f"{base}/v1"
        yield upstream


class _Endpoint:
    """One of the two APIs: how a reply looks as a body and as a stream."""

    def __init__(self, upstream: Upstream, body: Any, frames: Any) -> None:
        self._upstream = upstream
        self._body = body
        self._frames = frames

    async def answer(self, http: HTTPRequest) -> Response:
        request = Request(http.url.path, dict(http.headers), await http.json())
        reply = self._upstream.take(request)
        if reply.status != 200:
            error = {"message": "scripted failure", "type": "server_error", "param": None, "code": None}
            return JSONResponse({"error": error}, reply.status, {"x-should-retry": "false"})
        if request.body.get("stream"):
            return StreamingResponse(self._streamed(reply, request.body), media_type="text/event-stream")
        if reply.hangs:
            await self._hang()
        return JSONResponse(self._body(reply, request.body))

    async def _streamed(self, reply: Reply, asked: Json) -> AsyncIterator[str]:
        for frame in self._frames(reply, asked):
            if reply.hangs and frame is _END_OF_TEXT:
                await self._hang()
            if isinstance(frame, dict):
                name = f"event: {frame['type']}\n" if "type" in frame else ""
                yield f"{name}data: {json.dumps(frame)}\n\n"
        yield "data: [DONE]\n\n"

    async def _hang(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self._upstream.left.set()


_END_OF_TEXT = object()


def _last_said(body: Json) -> str:
    said = body.get("messages") or body.get("input") or []
    if isinstance(said, str):
        return said
    for message in reversed(said):
        if message.get("role") == "user":
            content = message["content"]
            return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
    return ""


def _pieces(text: str) -> list[str]:
    first, *rest = text.split(" ")
    return [piece for piece in (first, *(f" {word}" for word in rest)) if piece]


def _call_ids(reply: Reply, asked: Json) -> list[str]:
    turn = len(asked.get("messages") or asked.get("input") or [])
    return [f"call_{turn}_{at}" for at in range(len(reply.calls))]


def _halves(arguments: Mapping[str, Any]) -> tuple[str, str]:
    text = json.dumps(arguments)
    return text[: len(text) // 2], text[len(text) // 2 :]


def _chat_usage(reply: Reply) -> Json | None:
    if reply.usage is None:
        return None
    prompt, completion = reply.usage
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _chat_body(reply: Reply, asked: Json) -> Json:
    message: Json = {"role": "assistant", "content": reply.text or None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
            for call_id, (name, given) in zip(_call_ids(reply, asked), reply.calls, strict=True)
        ]
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason, "logprobs": None}
    return {**_chat_head(asked, "chat.completion"), "choices": [choice], "usage": _chat_usage(reply)}


def _chat_head(asked: Json, kind: str) -> Json:
    return {"id": "chatcmpl-1", "object": kind, "created": 1_700_000_000, "model": asked["model"]}


def _chat_frames(reply: Reply, asked: Json) -> Iterator[Any]:
    def chunk(delta: Json, finish: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {**_chat_head(asked, "chat.completion.chunk"), "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in _pieces(reply.reasoning):
        yield chunk({"reasoning_content": piece})
    for piece in _pieces(reply.text):
        yield chunk({"content": piece})
    yield _END_OF_TEXT
    for at, call_id in enumerate(_call_ids(reply, asked)):
        function: Json = {"name": reply.calls[at][0], "arguments": ""}
        yield chunk({"tool_calls": [{"index": at, "id": call_id, "type": "function", "function": function}]})
    for half in (0, 1):
        for at, (_, given) in enumerate(reply.calls):
            yield chunk({"tool_calls": [{"index": at, "function": {"arguments": _halves(given)[half]}}]})
    yield chunk({}, reply.finish_reason)
    if (asked.get("stream_options") or {}).get("include_usage"):
        yield {**_chat_head(asked, "chat.completion.chunk"), "choices": [], "usage": _chat_usage(reply)}


def _response_usage(reply: Reply) -> Json | None:
    if reply.usage is None:
        return None
    given, written = reply.usage
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + written,
    }


def _output_items(reply: Reply, asked: Json) -> list[Json]:
    items: list[Json] = []
    if reply.reasoning:
        summary = [{"type": "summary_text", "text": reply.reasoning}]
        items.append({"id": "rs_1", "type": "reasoning", "summary": summary})
    if reply.text:
        part = {"type": "output_text", "text": reply.text, "annotations": []}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
        items.append({**message, "content": [part]})
    for call_id, (name, given) in zip(_call_ids(reply, asked), reply.calls, strict=True):
        call = {"id": f"fc_{call_id}", "type": "function_call", "call_id": call_id, "status": "completed"}
        items.append({**call, "name": name, "arguments": json.dumps(given)})
    return items


def _response_body(reply: Reply, asked: Json) -> Json:
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reply.finish_reason)
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "model": asked["model"],
        "output": _output_items(reply, asked),
        "usage": _response_usage(reply),
        "error": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
    }


def _response_frames(reply: Reply, asked: Json) -> Iterator[Any]:
    whole = _response_body(reply, asked)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    frames: list[Any] = [{"type": "response.created", "response": begun}]
    for at, item in enumerate(whole["output"]):
        frames += _item_frames(at, item)
        if item["type"] == "message":
            frames.append(_END_OF_TEXT)
    frames.append({"type": f"response.{whole['status']}", "response": whole})
    number = 0
    for frame in frames:
        if isinstance(frame, dict):
            yield {**frame, "sequence_number": number}
            number += 1
        else:
            yield frame


def _item_frames(at: int, item: Json) -> Iterator[Json]:
    place = {"output_index": at, "item_id": item["id"]}
    if item["type"] == "message":
        yield {"type": "response.output_item.added", **place, "item": {**item, "content": []}}
        (part,) = item["content"]
        inside = {**place, "content_index": 0}
        yield {"type": "response.content_part.added", **inside, "part": {**part, "text": ""}}
        for piece in _pieces(part["text"]):
            yield {"type": "response.output_text.delta", **inside, "delta": piece, "logprobs": []}
        yield {"type": "response.output_text.done", **inside, "text": part["text"], "logprobs": []}
        yield {"type": "response.content_part.done", **inside, "part": part}
    elif item["type"] == "reasoning":
        yield {"type": "response.output_item.added", **place, "item": {**item, "summary": []}}
        (part,) = item["summary"]
        inside = {**place, "summary_index": 0}
        yield {"type": "response.reasoning_summary_part.added", **inside, "part": {**part, "text": ""}}
        for piece in _pieces(part["text"]):
            yield {"type": "response.reasoning_summary_text.delta", **inside, "delta": piece}
        yield {"type": "response.reasoning_summary_text.done", **inside, "text": part["text"]}
        yield {"type": "response.reasoning_summary_part.done", **inside, "part": part}
    else:
        yield {"type": "response.output_item.added", **place, "item": {**item, "arguments": ""}}
        for half in _halves(json.loads(item["arguments"])):
            yield {"type": "response.function_call_arguments.delta", **place, "delta": half}
        done = {"arguments": item["arguments"], "name": item["name"]}
        yield {"type": "response.function_call_arguments.done", **place, **done}
    yield {"type": "response.output_item.done", **place, "item": item}
