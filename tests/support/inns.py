"""Inns: whole servers on real ports with agents that a test conducts, and readers for what they send."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from fastapi import FastAPI

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.core.context import RunContext
from innkeeper.core.events import ReasoningDelta, StepChanged, TextDelta, ToolCalled, ToolReturned, UsageReported
from innkeeper.core.usage import Usage
from tests.support.servers import serve_app

Json = dict[str, Any]


class _Look:
    """What a performance does that is not said."""


_LOOK = _Look()
_Line = str | BaseException | _Look | None


class Performance:
    """One run of the agent `conducted`, from the outside: the test says what the agent says, and when."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.cancelled = threading.Event()
        self.heard: list[Json] = []
        self._lines: deque[_Line] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived: asyncio.Event | None = None

    def say(self, *lines: str) -> None:
        self._put(*lines)

    def look(self) -> None:
        """The agent takes what has been injected, and says it in brackets."""
        self._put(_LOOK)

    def end(self) -> None:
        self._put(None)

    def fail(self, error: BaseException | None = None) -> None:
        self._put(error or RuntimeError("the secret is open-sesame"))

    def _put(self, *lines: _Line) -> None:
        self._lines.extend(lines)
        if self._loop is not None and self._arrived is not None:
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def perform(self, messages: list[Json], context: RunContext) -> AsyncIterator[str]:
        self._loop, self._arrived, self.heard = asyncio.get_running_loop(), asyncio.Event(), messages
        self.began.set()
        try:
            while True:
                while not self._lines:
                    self._arrived.clear()
                    await self._arrived.wait()
                line = self._lines.popleft()
                if line is None:
                    return
                if isinstance(line, BaseException):
                    raise line
                if isinstance(line, str):
                    yield line
                    continue
                async for message in context.injections():
                    yield f"[{message.content}]"
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@dataclass
class Inn:
    """A server under test. `seen` is what its plain agents were given, a list of messages a run."""

    app: ServerBase
    url: str = ""
    seen: list[list[Json]] = field(default_factory=list)
    _performances: dict[str, Performance] = field(default_factory=dict)

    def conduct(self, prompt: str) -> Performance:
        """What the agent `conducted` does when it is told `prompt`, which no other run may be told."""
        return self._performances.setdefault(prompt, Performance())

    @property
    def database(self) -> Path:
        """The file that its store is, for what no client can do."""
        return self.app.kernel.settings.data_dir / "innkeeper.db"


UNCOUNTED = {f"rate_limit_{name}": "off" for name in ("anonymous", "user", "websocket", "failed_auth")}
"""Settings of servers that are asked more than a stranger may ask."""


@contextmanager
def running_inn(data_dir: Path, **settings: Any) -> Iterator[Inn]:
    """A server with the agents of `declare`, its state in `data_dir`. Nothing is counted but what `settings` limit."""
    with serve_inn(ServerBase(settings=load_settings({"data_dir": data_dir, **UNCOUNTED, **settings}))) as inn:
        yield inn


@contextmanager
def serve_inn(app: ServerBase) -> Iterator[Inn]:
    inn = Inn(app)
    declare(app, inn)
    with serve_app(app) as inn.url:
        yield inn


def declare(app: ServerBase, inn: Inn) -> None:
    """Serve `echo` (the default), `conducted`, `busy`, `failing`, `breaking`, `silent` and `flood`."""

    @app.agent("echo")
    async def echo(messages: list[Json]) -> AsyncIterator[str]:
        """Says what it heard."""
        inn.seen.append(messages)
        for word in f"You said: {messages[-1]['content']}".split(" "):
            yield f"{word} "

    @app.agent("conducted")
    async def conducted(messages: list[Json], context: RunContext) -> AsyncIterator[str]:
        """Says what the test says."""
        async for line in inn.conduct(messages[-1]["content"]).perform(messages, context):
            yield line

    @app.agent("busy")
    async def busy(messages: list[Json]) -> AsyncIterator[Any]:
        """Does everything that there is an event for."""
        inn.seen.append(messages)
        yield StepChanged(1, "started")
        yield ReasoningDelta("Let me look. ")
        yield ToolCalled("lookup", "call-1", '{"key": "täglich"}')
        yield ToolReturned("lookup", "call-1", {"value": 42}, None, 1.5)
        yield ToolCalled("lookup", "call-2", "{}")
        yield ToolReturned("lookup", "call-2", None, "no key", 0.5)
        yield StepChanged(1, "completed")
        yield TextDelta("It is ")
        yield TextDelta("42.")
        yield UsageReported(Usage(10, 5, "a-model"))

    @app.agent("failing")
    async def failing(messages: list[Json]) -> str:
        raise RuntimeError("the secret is open-sesame")

    @app.agent("breaking")
    async def breaking(messages: list[Json]) -> AsyncIterator[str]:
        yield "So far "
        yield "so good."
        raise RuntimeError("the secret is open-sesame")

    @app.agent("silent")
    async def silent(messages: list[Json]) -> AsyncIterator[str]:
        for text in list[str]():
            yield text

    @app.agent("flood")
    async def flood(messages: list[Json]) -> AsyncIterator[str]:
        """Says as many kilobytes as it is told."""
        for _ in range(int(messages[-1]["content"])):
            yield "x" * 1024


class Frame(NamedTuple):
    """One SSE frame of the native surface."""

    seq: int | None
    data: Any


def frames(body: str | bytes) -> list[Frame]:
    """The frames of a whole native SSE body. It must end with `[DONE]`, and every line must be understood."""
    text = body.decode() if isinstance(body, bytes) else body
    found: list[Frame] = []
    *blocks, rest = text.split("\n\n")
    assert rest == "", f"the body ends within a frame: {rest!r}"
    for block in blocks:
        seq: int | None = None
        if block.startswith(":"):
            continue
        *ids, data = block.split("\n")
        for line in ids:
            assert line.startswith("id: ")
            seq = int(line[4:])
        assert data.startswith("data: ")
        found.append(Frame(seq, data[6:]))
    assert found, "there are frames"
    assert found[-1] == (None, "[DONE]"), found[-1]
    return [Frame(frame.seq, json.loads(frame.data)) for frame in found[:-1]]


def said(found: Iterable[Frame]) -> str:
    """The text that frames carry."""
    return "".join(frame.data["content"] for frame in found if frame.data["type"] == "text")


def history(client: httpx2.Client, session_id: str) -> list[tuple[str, Any]]:
    """Who said what in a session, as its clients see it."""
    answer = client.get(f"/sessions/{session_id}")
    assert answer.status_code == 200, answer.text
    return [(message["role"], message["content"]) for message in answer.json()["messages"]]


def ended(client: httpx2.Client, run_id: str) -> Json:
    """The run, once it has ended."""
    run: Json = client.get(f"/runs/{run_id}", params={"wait": 20}).json()
    assert run["ended_at"] is not None, run
    return run


def bare_app(data_dir: Path) -> FastAPI:
    """A server without agents."""
    return ServerBase(settings=load_settings({"data_dir": data_dir}))
