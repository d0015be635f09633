"""Agents that stream: what they yield is stored and sent as it comes, on every protocol.

innkeeper serve examples/streaming.py
curl -N http://127.0.0.1:8000/chat/stream -H 'content-type: application/json' -d '{"input": "tell me a story"}'
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from innkeeper import register_agent


async def slow(messages: list[dict[str, Any]]) -> AsyncIterator[str]:
    """An async generator."""
    for word in str(messages[-1]["content"]).split():
        yield f"{word} "
        await asyncio.sleep(0.1)


def countdown() -> Iterator[str]:
    """A plain generator, which runs in a thread."""
    for number in (3, 2, 1):
        yield f"{number}… "
        time.sleep(0.1)
    yield "done."


register_agent("slow", slow)
register_agent("countdown", countdown)
