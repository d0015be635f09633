"""Messages: topics on their way, as `SENDER TOPIC,TOPIC,…`. The sender is a random word of the bus that sent them.

Whoever may use the channel may send anything on it, and what does not read like this is passed over.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

MOST_BYTES = 7_900
"""Of a message. PostgreSQL refuses 8,000."""

_SENDER = r"[0-9a-f]{16}"
_TOPIC = r"[!-+\--~]{1,200}"  # printable ASCII, of which the space and the comma are no part
_TOPICS = re.compile(_TOPIC)
_MESSAGES = re.compile(f"({_SENDER}) ({_TOPIC}(?:,{_TOPIC})*)")


def new_sender() -> str:
    return secrets.token_hex(8)


def is_topic(text: str) -> bool:
    return _TOPICS.fullmatch(text) is not None


def packed(sender: str, topics: Iterable[str]) -> list[str]:
    """The topics in as few messages as hold them in this order."""
    bodies: list[list[str]] = []
    room = 0
    for topic in topics:
        room -= len(topic) + 1
        if room < 0:
            bodies.append([])
            room = MOST_BYTES - len(sender) - 1 - len(topic)
        bodies[-1].append(topic)
    return [f"{sender} {','.join(body)}" for body in bodies]


def unpacked(message: str) -> tuple[str, tuple[str, ...]]:
    """Who sent it, and the topics: none if it is malformed."""
    read = _MESSAGES.fullmatch(message) if len(message) <= MOST_BYTES else None
    return (read[1], tuple(read[2].split(","))) if read else ("", ())
