"""Where ended spans go, beside the store: to whoever collects the traces of many services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from innkeeper.core.traces import Span


class SpanSink(Protocol):
    """Takes spans and sends them by itself, which waits for nobody and fails nothing."""

    def take(self, trace_id: str, spans: Sequence[Span]) -> None:
        """Send these, soon; those that have not ended are left out."""

    async def close(self, patience: float) -> None:
        """Send what is left, for so many seconds at most."""
