"""Stretches: consecutive events of a session's log in memory, as they are sent to subscribers.

A stretch says nothing about sessions and their subscribers (`services.session_tails`) nor about what its bytes mean;
it hands out batches of them, the same one to all who are at the same place.
"""

from __future__ import annotations

from collections.abc import Sequence

_BATCH_BYTES = 64 * 1024
_KEPT_BATCHES = 16


class Batch:
    """Events that are sent together; `last` is the sequence of the last one."""

    __slots__ = ("_joined", "last", "parts")

    def __init__(self, parts: Sequence[bytes], last: int) -> None:
        self.parts = parts
        self.last = last
        self._joined: bytes | None = None

    def joined(self) -> bytes:
        """All of them in one piece, made once."""
        if self._joined is None:
            self._joined = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        return self._joined


class Stretch:
    """The events beyond `after` up to `head`; it grows at its head and is cut at its beginning."""

    def __init__(self, after: int, parts: Sequence[bytes] = ()) -> None:
        self.after = after
        self.size = 0
        self._parts: list[bytes] = []
        self._batches: dict[int, Batch] = {}
        self.extend(parts)

    @property
    def head(self) -> int:
        return self.after + len(self._parts)

    def extend(self, parts: Sequence[bytes]) -> None:
        self._parts.extend(parts)
        self.size += sum(map(len, parts))
        self._batches.clear()

    def cut(self, max_bytes: int, max_events: int) -> None:
        """Forget the oldest events beyond these bounds, but never the last one."""
        count, size = 0, self.size
        left = len(self._parts)
        while left > 1 and (size > max_bytes or left > max_events):
            size -= len(self._parts[count])
            count, left = count + 1, left - 1
        if count:
            del self._parts[:count]
            self.after, self.size = self.after + count, size
            self._batches.clear()

    def beyond(self, after: int) -> Batch | None:
        """The next events after that one, as many as go together well; `None` if they are not here."""
        if not self.after <= after < self.head:
            return None
        batch = self._batches.get(after)
        if batch is None:
            batch = self._collected(after)
            if len(self._batches) >= _KEPT_BATCHES:
                self._batches.pop(next(iter(self._batches)))
            self._batches[after] = batch
        return batch

    def _collected(self, after: int) -> Batch:
        first = after - self.after
        end, size = first + 1, len(self._parts[first])
        while end < len(self._parts) and size + len(self._parts[end]) <= _BATCH_BYTES:
            size += len(self._parts[end])
            end += 1
        return Batch(self._parts[first:end], self.after + end)
