"""Memories: what one WebSocket remembers of the responses on it that are not stored, so that others may follow them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from innkeeper.core.messages import Message

_MOST, _MOST_BYTES = 32, 8 * 1024 * 1024


class _Kept(NamedTuple):
    messages: tuple[Message, ...]
    size: int
    user: str | None


class Memory:
    """The latest conversations, within a bound; the oldest are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._size = 0

    def keep(self, response_id: str, messages: Sequence[Message], user: str | None) -> None:
        """What was said up to the end of a response, for the end `user` that its request named."""
        size = sum(_size(message) for message in messages)
        self._kept[response_id] = _Kept(tuple(messages), size, user)
        self._size += size
        while len(self._kept) > _MOST or self._size > _MOST_BYTES:
            _, forgotten = self._kept.popitem(last=False)
            self._size -= forgotten.size

    def find(self, response_id: str | None, user: str | None) -> tuple[Message, ...] | None:
        """What is remembered, but not of one end user's for another's request."""
        known = None if response_id is None else self._kept.get(response_id)
        if known is None or (None not in (user, known.user) and user != known.user):
            return None
        return known.messages


def _size(message: Message) -> int:
    content = message.content
    said = len(content) if isinstance(content, str) else sum(len(str(part)) for part in content or ())
    return said + sum(len(use.arguments) + len(use.name) for use in message.tool_calls) + 100
