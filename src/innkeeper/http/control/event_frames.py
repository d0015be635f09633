"""Event frames: a session's event as the control plane shows it, and as one message of a WebSocket.

A frame is made once for all who watch: a whole, final, unmasked text frame without extensions, as RFC 6455 has it, so
that a server which can write it as it is need not make another.
"""

from __future__ import annotations

import struct

from innkeeper.core.events import json_bytes
from innkeeper.core.session_events import SessionEvent
from innkeeper.core.times import isoformat

_FINAL_TEXT = 0x81
_IN_TWO_BYTES, _IN_EIGHT_BYTES = 126, 127


def shown(event: SessionEvent) -> dict[str, object]:
    """The event as clients see it, wherever they do."""
    return {
        "event_id": event.event_id,
        "sequence": event.sequence,
        "event_type": event.event_type,
        "data": event.data,
        "metadata": event.metadata,
        "source": event.source,
        "session_id": event.session_id,
        "run_id": event.run_id,
        "created_at": isoformat(event.created_at),
    }


def frame_of(event: SessionEvent) -> bytes:
    """The event as one frame."""
    return framed(json_bytes(shown(event)))


def framed(text: bytes) -> bytes:
    """UTF-8 text as one frame."""
    length = len(text)
    if length < _IN_TWO_BYTES:
        return bytes((_FINAL_TEXT, length)) + text
    if length < 2**16:
        return struct.pack("!BBH", _FINAL_TEXT, _IN_TWO_BYTES, length) + text
    return struct.pack("!BBQ", _FINAL_TEXT, _IN_EIGHT_BYTES, length) + text


def text_of(frame: bytes) -> str:
    """The text in a frame of ours, for servers that frame it themselves."""
    header = {_IN_TWO_BYTES: 4, _IN_EIGHT_BYTES: 10}.get(frame[1], 2)
    return frame[header:].decode()
