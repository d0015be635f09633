"""Frames: the events of a response as Server-Sent Events, from a sequence number on."""

from __future__ import annotations

from collections.abc import Mapping
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

    def __call__(self, batch: list[Segment]) -> bytes:
        frames: list[bytes] = []
        for segment in batch:
            is_skipped = segment.last_seq <= self._after_seq
            frames += [
                frame(event)
                for event in self._events.read(segment)
                if event["sequence_number"] > self._after and not is_skipped
            ]
        return b"".join(frames)
