"""Agents for tests: one that answers what it was told to, in OpenAI's own form."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

USAGE: Mapping[str, int] = {"prompt_tokens": 25, "completion_tokens": 15, "total_tokens": 40}


class MockAgent:
    """An agent that answers `response`, streamed as `chunks` (by default a word at a time).

    The stream is a chunk with the role, chunks with content, and a last one with `finish_reason` "stop" and
    `usage`; `usage=None` reports none. `delay` is in seconds, before each piece of content. `error` (an
    exception, or its message) is raised instead of the end: after the content, where the agent streams.
    `calls` are the messages of every run so far.
    """

    def __init__(
        self,
        name: str = "mock-agent",
        response: str = "This is a mock response.",
        chunks: Sequence[str] | None = None,
        usage: Mapping[str, int] | None = USAGE,
        delay: float = 0,
        error: BaseException | str | None = None,
    ) -> None:
        self.name = name
        self.model = name
        self.description = "Answers what a test told it to."
        self.response = response if chunks is None else "".join(chunks)
        self.chunks = _words(response) if chunks is None else list(chunks)
        self.usage = None if usage is None else dict(usage)
        self.delay = delay
        self.error = RuntimeError(error) if isinstance(error, str) else error
        self.calls: list[list[dict[str, Any]]] = []

    async def run(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """The whole answer, a `chat.completion` as a dict."""
        self.calls.append(messages)
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        message = {"role": "assistant", "content": self.response}
        return self._framed("chat.completion", _new_id(), {"message": message, "finish_reason": "stop"}, self.usage)

    async def run_streamed(self, messages: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces, each a `chat.completion.chunk` as a dict."""
        self.calls.append(messages)
        chunk_id = _new_id()
        yield self._chunk(chunk_id, {"role": "assistant", "content": ""})
        for content in self.chunks:
            await asyncio.sleep(self.delay)
            yield self._chunk(chunk_id, {"content": content})
        if self.error is not None:
            raise self.error
        yield self._chunk(chunk_id, {}, "stop", self.usage)

    def _chunk(
        self,
        chunk_id: str,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        usage: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        choice = {"delta": delta, "finish_reason": finish_reason}
        return self._framed("chat.completion.chunk", chunk_id, choice, usage)

    def _framed(
        self, kind: str, completion_id: str, choice: dict[str, Any], usage: Mapping[str, int] | None
    ) -> dict[str, Any]:
        framed = {
            "id": completion_id,
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "choices": [{"index": 0, **choice}],
        }
        return framed if usage is None else {**framed, "usage": dict(usage)}


def _new_id() -> str:
    return f"chatcmpl-{uuid4().hex}"


def _words(text: str) -> list[str]:
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]
