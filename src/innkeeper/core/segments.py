"""Segments: pieces of a run's log as they are stored, and the fence that says who may still write it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fence:
    """Writes for a run hold only while this worker still owns this epoch of it."""

    run_id: str
    worker: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive events of a run as one row: payloads joined by newlines."""

    first_seq: int
    count: int
    data: bytes

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.count - 1

    def payloads(self) -> list[bytes]:
        return self.data.split(b"\n")

    def beyond(self, after: int) -> Segment:
        """The part of it that follows `after`."""
        if self.first_seq > after:
            return self
        kept = self.payloads()[after - self.first_seq + 1 :]
        return Segment(after + 1, len(kept), b"\n".join(kept))
