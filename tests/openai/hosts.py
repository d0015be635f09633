"""The function agents of the tests' server, and what the tests know of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from innkeeper import RequestState, ServerBase
from innkeeper.core.events import ReasoningDelta, TextDelta

KEY = "sk-anything"
MODEL_AGENTS = ("declared", "pydantic", "sdk")

Json = dict[str, Any]


@dataclass
class Host:
    """A server under test. `seen` is what the function agents were given, a list of messages a run."""

    url: str = ""
    seen: list[list[Json]] = field(default_factory=list)
    began: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def forget(self) -> None:
        """Begin anew for the next test."""
        self.seen.clear()
        self.began.clear()
        self.cancelled.clear()


def declare_functions(app: ServerBase, host: Host) -> None:
    """Serve the agents `echo` (the default), `whole`, `thinking`, `failing`, `breaking`, `patient`, `telling`
    and `fast:er`.
    """

    @app.agent("echo")
    async def echo(messages: list[Json]) -> AsyncIterator[str]:
        """Says what it heard."""
        host.seen.append(messages)
        for word in f"You said: {messages[-1]['content']}".split(" "):
            yield f"{word} "

    @app.agent("whole")
    def whole(messages: list[Json]) -> Json:
        host.seen.append(messages)
        message = {"role": "assistant", "content": "All at once."}
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        return {"choices": [{"message": message, "finish_reason": "length"}], "usage": usage}

    @app.agent("thinking")
    async def thinking(messages: list[Json]) -> AsyncIterator[Any]:
        yield ReasoningDelta("Hm. ")
        yield ReasoningDelta("Yes.")
        yield TextDelta("42")

    @app.agent("failing")
    async def failing(messages: list[Json]) -> str:
        raise RuntimeError("the secret is open-sesame")

    @app.agent("breaking")
    async def breaking(messages: list[Json]) -> AsyncIterator[str]:
        yield "So far "
        yield "so good."
        raise RuntimeError("the secret is open-sesame")

    @app.agent("patient")
    async def patient(messages: list[Json]) -> AsyncIterator[str]:
        """Says two words and then waits until it is cancelled."""
        yield "One "
        yield "two "
        host.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            host.cancelled.set()
            raise

    @app.agent("telling")
    async def telling(messages: list[Json], context: RequestState) -> str:
        return f"{context.user_id} {context.workflow} {context.variables} {context.metadata}"

    @app.agent("fast:er")
    async def faster(messages: list[Json]) -> str:
        return "Faster."
