"""Frames: the events of a response as Server-Sent Events, from a sequence number on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from innkeeper.core.changes import Segment
from innkeeper.core.events import json_bytes
from innkeeper.core.runs import Run
from innkeeper.http.responses.events import ResponseEvents

DONE = b"data: [DONE]\n\n"


def frame(event: Mapping[str, Any]) -> bytes:
    """One event."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data_of(event))


def data_of(event: Mapping[str, Any]) -> bytes:
    """Anything of an event as JSON; what agents say may hold what UTF-8 cannot carry."""
    try:
        return msgspec.json.encode(event, enc_hook=str)
    except UnicodeEncodeError:
        return json_bytes(event)


def trouble_frame(error: Mapping[str, Any]) -> bytes:
    """What ends a stream that cannot go on; its number is that of no event."""
    told = {"type": "error", "sequence_number": -1, "code": error["code"], "message": error["message"]}
    return frame({**told, "param": error.get("param"), "error": error}) + DONE


class EventEncoder:
    """Encodes one run's log for one reader; call it with segments in order, from the first one.

    Events up to number `after` are left out, and what the log's first `after_seq` events stand for.
    """

    def __init__(self, run: Run, *, after: int = -1, after_seq: int = 0) -> None:
        self._events = ResponseEvents(run)
        self._after = after
        self._after_seq = after_seq
        self._on_pause: Callable[[], None] | None = None

    def end_at_pause(self, on_pause: Callable[[], None]) -> None:
        """Tell nothing behind the next pause, at which `on_pause` is called."""
        self._on_pause = on_pause

    def __call__(self, batch: list[Segment]) -> bytes:
        return b"".join(frame(event) for event in self._told(batch))

    def _told(self, batch: list[Segment]) -> Iterator[Mapping[str, Any]]:
        for segment in batch:
            is_skipped = segment.last_seq <= self._after_seq
            for event in self._events.read(segment):
                if is_skipped:
                    continue
                if event["sequence_number"] > self._after:
                    yield event
                if self._on_pause is not None and self._events.is_paused:
                    self._on_pause()
                    return
