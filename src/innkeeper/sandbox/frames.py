"""Frames: what the server and a child process that runs code say to each other, JSON behind its length."""

from __future__ import annotations

import json
import struct

HEADER = struct.Struct(">I")


def encode(message: dict[str, object]) -> bytes:
    body = json.dumps(message, separators=(",", ":")).encode()
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> dict[str, object]:
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("A frame holds an object.")
    return message
