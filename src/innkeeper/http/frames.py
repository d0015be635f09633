"""Frames: a run's log for native clients: SSE with `id: <seq>`, or one JSON text a WebSocket message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from innkeeper.core.changes import Segment

DONE = b"data: [DONE]\n\n"


class SseEncoder:
    """Native SSE: `id: <seq>` and the stored payload."""

    def __call__(self, batch: list[Segment]) -> bytes:
        frames: list[bytes] = []
        for segment in batch:
            seq = segment.first_seq
            for data in segment.data.split(b"\n"):
                frames.append(b"id: %d\ndata: %s\n\n" % (seq, data))
                seq += 1
        return b"".join(frames)


def marker() -> bytes:
    """What follows the log in every stream."""
    return DONE


def farewell_payload(run_id: str | None, cursor: int | None) -> bytes:
    """Tells a reader that the server leaves, and from where to go on: `after` that `seq`, or as `Last-Event-ID`."""
    return msgspec.json.encode({"type": "shutdown", "run_id": run_id, "cursor": cursor})


def farewell_frame(run_id: str, cursor: int) -> bytes:
    return b"data: " + farewell_payload(run_id, cursor) + b"\n\n"


def error_payload(error: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"type": "error", "error": error}, enc_hook=str)


def error_frame(error: Mapping[str, Any]) -> bytes:
    return b"data: " + error_payload(error) + b"\n\n"
