"""Frames: a run's log for native clients: SSE with `id: <seq>`, or one JSON text a WebSocket message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from innkeeper.core.changes import Segment

DONE = b"data: [DONE]\n\n"


class SseEncoder:
    """Native SSE: `id: <seq>` and the stored payload; `[DONE]` after the run's last event."""

    is_ended = False

    def rest(self) -> bytes:
        """What is missing at the end of the log: for a reader that began beyond its last event, the marker."""
        return b"" if self.is_ended else DONE

    def __call__(self, batch: list[Segment]) -> bytes:
        frames: list[bytes] = []
        for segment in batch:
            seq = segment.first_seq
            for data in segment.data.split(b"\n"):
                frames.append(b"id: %d\ndata: %s\n\n" % (seq, data))
                seq += 1
        if batch[-1].data.rpartition(b"\n")[2].startswith(b'{"type":"done"'):
            self.is_ended = True
            frames.append(DONE)
        return b"".join(frames)


def error_payload(error: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"type": "error", "error": error}, enc_hook=str)


def error_frame(error: Mapping[str, Any]) -> bytes:
    return b"data: " + error_payload(error) + b"\n\n"
