"""Surfaces: every way to start a run and read along, behind one shape, so that a scenario can be played on each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2
from websockets.asyncio.client import connect

Json = dict[str, Any]


@dataclass
class Reading:
    """A stream under way: `texts` yields what the agent says; `ending` is what came last, once it is over.

    `run_id` is known when the stream begins, or with the first event where the surface has no headers.
    """

    texts: AsyncIterator[str]
    run_id: str = ""
    ending: Any = None

    async def until(self, words: str) -> str:
        """The text up to and including `words`."""
        said = ""
        async for text in self.texts:
            said += text
            if said.endswith(words):
                return said
        raise AssertionError(f"the stream ended with {self.ending!r} after {said!r}, before {words!r}")

    async def rest(self) -> str:
        return "".join([text async for text in self.texts])


Open = Callable[..., AbstractAsyncContextManager[Reading]]


def _native(method: str, path: str, **extra: Any) -> Open:
    @asynccontextmanager
    async def surface(client: httpx2.AsyncClient, agent: str, text: str, session_id: str) -> AsyncIterator[Reading]:
        body = {"agent_name": agent, "input": text, "session_id": session_id, **extra}
        payload: Json = {"params": body} if method == "GET" else {"json": body}
        async with client.stream(method, path, **payload) as answer:
            yield native_reading(answer)

    return surface


def native_reading(answer: httpx2.Response) -> Reading:
    assert answer.status_code == 200, answer.status_code
    reading = Reading(_nothing(), answer.headers["x-run-id"])

    async def texts() -> AsyncIterator[str]:
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                return
            if line.startswith("data: "):
                reading.ending = event = json.loads(line[6:])
                if event["type"] == "text":
                    yield event["content"]
        raise AssertionError("the stream was cut")

    reading.texts = texts()
    return reading


def _openai(path: str) -> Open:
    @asynccontextmanager
    async def surface(client: httpx2.AsyncClient, agent: str, text: str, session_id: str) -> AsyncIterator[Reading]:
        message = {"role": "user", "content": text}
        body = {"model": agent, "messages": [message], "stream": True, "session_id": session_id}
        async with client.stream("POST", path.format(agent=quote(agent)), json=body) as answer:
            assert answer.status_code == 200, answer.status_code
            reading = Reading(_nothing(), answer.headers["x-run-id"])

            async def texts() -> AsyncIterator[str]:
                async for line in answer.aiter_lines():
                    if line == "data: [DONE]":
                        return
                    if line.startswith("data: "):
                        reading.ending = chunk = json.loads(line[6:])
                        for choice in chunk.get("choices", ()):
                            if choice["delta"].get("content"):
                                yield choice["delta"]["content"]
                raise AssertionError("the stream was cut")

            reading.texts = texts()
            yield reading

    return surface


@asynccontextmanager
async def _responses(client: httpx2.AsyncClient, agent: str, text: str, session_id: str) -> AsyncIterator[Reading]:
    body = {"model": agent, "input": text, "stream": True, "session_id": session_id}
    async with client.stream("POST", "/v1/responses", json=body) as answer:
        assert answer.status_code == 200, answer.status_code
        reading = Reading(_nothing(), answer.headers["x-run-id"])

        async def texts() -> AsyncIterator[str]:
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    event = json.loads(line[6:])
                    reading.ending = event.get("response", event)
                    if event["type"] == "response.output_text.delta":
                        yield event["delta"]
            raise AssertionError("the stream was cut")

        reading.texts = texts()
        yield reading


@asynccontextmanager
async def _response_socket(
    client: httpx2.AsyncClient, agent: str, text: str, session_id: str
) -> AsyncIterator[Reading]:
    url = str(client.base_url).rstrip("/").replace("http", "ws", 1)
    async with connect(f"{url}/v1/responses") as connection:
        asked = {"type": "response.create", "model": agent, "input": text, "session_id": session_id}
        await connection.send(json.dumps(asked))
        first = json.loads(await connection.recv())
        reading = Reading(_nothing(), first["response"]["id"].replace("resp_", "run_"))

        async def texts() -> AsyncIterator[str]:
            while True:
                event = json.loads(await connection.recv())
                reading.ending = event.get("response", event)
                if event["type"] == "response.output_text.delta":
                    yield event["delta"]
                elif event["type"] in ("response.completed", "response.failed"):
                    return

        reading.texts = texts()
        yield reading


@asynccontextmanager
async def _socket(client: httpx2.AsyncClient, agent: str, text: str, session_id: str) -> AsyncIterator[Reading]:
    url = str(client.base_url).rstrip("/").replace("http", "ws", 1)
    async with connect(f"{url}/ws/chat") as connection:
        await connection.send(json.dumps({"agent_name": agent, "input": text, "session_id": session_id}))
        first = json.loads(await connection.recv())
        reading = Reading(_nothing(), first["run_id"])

        async def texts() -> AsyncIterator[str]:
            while True:
                reading.ending = event = json.loads(await connection.recv())
                if event["type"] == "text":
                    yield event["content"]
                elif event["type"] == "done":
                    return

        reading.texts = texts()
        yield reading


async def _nothing() -> AsyncIterator[str]:
    for text in list[str]():
        yield text


SURFACES: Mapping[str, Open] = {
    "POST /chat": _native("POST", "/chat", stream=True),
    "POST /chat/stream": _native("POST", "/chat/stream"),
    "GET /stream": _native("GET", "/stream"),
    "WS /ws/chat": _socket,
    "POST /v1/chat/completions": _openai("/v1/chat/completions"),
    "POST /{agent}/chat/completions": _openai("/{agent}/chat/completions"),
    "POST /v1/responses": _responses,
    "WS /v1/responses": _response_socket,
}
"""Each opens a stream: `async with surface(client, agent, text, session_id) as reading`."""


@asynccontextmanager
async def follow(client: httpx2.AsyncClient, run_id: str, after: int = 0) -> AsyncIterator[Reading]:
    """Read along with a run that another surface has started."""
    async with client.stream("GET", f"/runs/{run_id}/events", params={"after": after}) as answer:
        yield native_reading(answer)
