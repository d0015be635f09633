"""Results: whatever an agent's code returns or yields, read as events.

Text, chunks (see `chunks`), result objects of frameworks, response objects (see `frames`), streams of any
of these, and any other JSON value, which becomes its JSON text.
"""

from __future__ import annotations

import codecs
import dataclasses
import inspect
import json
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import (
    AgentEvent,
    FinishNoted,
    MessageInjected,
    Paused,
    ReasoningDelta,
    StepChanged,
    TextDelta,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from innkeeper.runtimes.chunks import ChunkReader, ErrorChunk, text_of, usage_of, value_of
from innkeeper.runtimes.frames import body_values, is_response
from innkeeper.runtimes.threads import Threads

__all__ = ["ErrorChunk", "Reader", "UnreadableResult", "is_stream", "settled"]

_EVENTS = (
    TextDelta,
    ReasoningDelta,
    ToolCalled,
    ToolReturned,
    StepChanged,
    MessageInjected,
    UsageReported,
    FinishNoted,
    Paused,
)
_PLAIN = frozenset({str, dict, list, tuple, bytes, int, float, bool, type(None), *_EVENTS})
_OUTPUTS = ("final_output", "output", "content")
_MISSING = object()


class UnreadableResult(AgentFailed):
    """The agent returned something that is neither text nor anything that can be shown as text."""


def is_stream(item: object) -> bool:
    """Whether `item` must be awaited or iterated to be read."""
    if type(item) in _PLAIN:
        return False
    return (
        hasattr(item, "stream_events")
        or hasattr(item, "__aiter__")
        or isinstance(item, Iterator)
        or is_response(item)
        or inspect.isawaitable(item)
    )


async def settled(result: object) -> object:
    """`result`, awaited as long as it is awaitable."""
    while inspect.isawaitable(result):
        result = await result
    return result


class Reader:
    """Reads what one run's code returns or yields; `flush` gives what only the end completes."""

    def __init__(self, context: RunContext, threads: Threads) -> None:
        self._context = context
        self._threads = threads
        self._chunks = ChunkReader()
        self._decoder: codecs.IncrementalDecoder | None = None

    async def result(self, result: object) -> AsyncGenerator[AgentEvent, None]:
        """Everything that a returned object says, to its end."""
        async with aclosing(self.events(result)) as events:
            async for event in events:
                yield event
        for event in self.flush():
            yield event

    def flush(self) -> Iterator[AgentEvent]:
        if self._decoder is not None:
            yield from _text_events(self._decoder.decode(b"", True))
        yield from self._chunks.flush()

    def read(self, item: object) -> Iterable[AgentEvent]:
        """The events of an item that is no stream.

        Raises: ErrorChunk, UnreadableResult.
        """
        if item is None:
            return ()
        if isinstance(item, str):
            return _text_events(str(item))
        if isinstance(item, _EVENTS):
            return (item,)
        if isinstance(item, bytes | bytearray | memoryview):
            self._decoder = self._decoder or codecs.getincrementaldecoder("utf-8")("replace")
            return _text_events(self._decoder.decode(bytes(item)))
        if (events := self._chunks.read(item)) is not None:
            return events
        if not isinstance(item, Mapping):
            for name in _OUTPUTS:
                value = getattr(item, name, _MISSING)
                if value is not _MISSING and not callable(value):
                    return [*_text_events(_output_text(name, value)), *_reported(item)]
        return _text_events(_json_text(item))

    async def events(self, item: object) -> AsyncGenerator[AgentEvent, None]:
        """The events of any item. The streams in it are closed with it."""
        item = await settled(item)
        if not is_stream(item):
            for event in self.read(item):
                yield event
            return
        async with aclosing(self._values(item)) as values:
            async for value in values:
                if type(value) is str:
                    if value:
                        yield TextDelta(value)
                elif not is_stream(value):
                    for event in self.read(value):
                        yield event
                else:
                    async with aclosing(self.events(value)) as nested:
                        async for event in nested:
                            yield event

    def _values(self, stream: Any) -> AsyncGenerator[object, None]:
        if is_response(stream):
            self._context.original_response = stream
            return _closing(body_values(stream), getattr(stream, "body_iterator", None))
        if hasattr(stream, "stream_events"):
            self._context.original_response = stream
            return _streamed_events(stream)
        if hasattr(stream, "__aiter__"):
            return _closing(stream)
        return self._drawn(stream)

    async def _drawn(self, iterator: Iterator[object]) -> AsyncGenerator[object, None]:
        async with aclosing(self._threads.batches(iterator)) as batches:
            async for batch in batches:
                for item in batch:
                    yield item


async def _closing(values: Any, source: object = None) -> AsyncGenerator[object, None]:
    """`values`, with `source` closed at the end, however it comes."""
    try:
        async for value in values:
            yield value
    finally:
        await _close(values)
        await _close(source)


async def _close(source: object) -> None:
    close = getattr(source, "aclose", None) or getattr(source, "close", None)
    if callable(close):
        await settled(close())


async def _streamed_events(result: Any) -> AsyncGenerator[object, None]:
    """The items of `stream_events()`; what produces them is cancelled where the reader leaves early."""
    is_complete = False
    events = await settled(result.stream_events())
    try:
        async with aclosing(_closing(events)) as items:
            async for item in items:
                yield item
        is_complete = True
    finally:
        if not is_complete and callable(cancel := getattr(result, "cancel", None)):
            await settled(cancel())


def _text_events(text: str) -> tuple[TextDelta, ...]:
    return (TextDelta(text),) if text else ()


def _reported(result: object) -> tuple[UsageReported, ...]:
    """The usage that a result object carries, as Pydantic AI, the Agents SDK and LangChain do."""
    for holder, name in (
        (result, "usage"),
        (value_of(result, "context_wrapper"), "usage"),
        (result, "usage_metadata"),
    ):
        reported = value_of(holder, name)
        usage = usage_of(reported() if callable(reported) else reported, value_of(result, "model"))
        if usage is not None:
            return (UsageReported(usage),)
    return ()


def _output_text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return (name == "content" and text_of(value)) or _json_text(value)


def _json_text(value: object) -> str:
    plain = value if type(value) in _PLAIN else _as_plain(value)
    if plain is _MISSING:
        raise UnreadableResult(
            f"The agent returned an object of type {type(value).__qualname__}, which cannot be shown as text."
            " Return a string, a dict, an async generator, or a pydantic model."
        )
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, default=_jsonable)


def _as_plain(value: Any) -> object:
    """What JSON makes of `value`, or `_MISSING`."""
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    return _MISSING if str(value) == object.__repr__(value) else str(value)


def _jsonable(value: object) -> object:
    plain = _as_plain(value)
    return str(value) if plain is _MISSING else plain
