"""What is measured while the server works, and what was measured. Nothing here decides, waits or fails.

Every call of a meter comes from the server's event loop, takes about a microsecond and never raises. Names that
clients choose may be given as they are: adapters bound how many they keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from innkeeper.core.usage import Usage

StreamKind = Literal["sse", "websocket"]


class Meter(Protocol):
    """Takes what services tell; seconds everywhere."""

    def running(self, count: int) -> None:
        """So many runs are executed by this process now."""

    def waiting(self, count: int) -> None:
        """So many turns wait in this process for their session's current one."""

    def first_text(self, agent_name: str, seconds: float) -> None:
        """The first text of a run is on its way to the log, that long after its agent began."""

    def run_ended(self, agent_name: str, status: str, seconds: float | None, usage: Usage | None) -> None:
        """A run is settled, that long after its agent began; `None` where it never did here."""

    def command_ended(self, status: str, seconds: float) -> None: ...

    def committed(self, seconds: float) -> None:
        """A commit of the store, from its call to its answer."""


class TrafficMeter(Protocol):
    """Takes what surfaces tell."""

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request to a route, which is named by its template, has got its last byte."""

    def stream_opened(self, kind: StreamKind) -> None: ...

    def stream_closed(self, kind: StreamKind) -> None: ...


class Unmetered:
    """Measures nothing."""

    def running(self, count: int) -> None: ...

    def waiting(self, count: int) -> None: ...

    def first_text(self, agent_name: str, seconds: float) -> None: ...

    def run_ended(self, agent_name: str, status: str, seconds: float | None, usage: Usage | None) -> None: ...

    def command_ended(self, status: str, seconds: float) -> None: ...

    def committed(self, seconds: float) -> None: ...

    def answered(self, method: str, route: str, status: int, seconds: float) -> None: ...

    def stream_opened(self, kind: StreamKind) -> None: ...

    def stream_closed(self, kind: StreamKind) -> None: ...


UNMETERED = Unmetered()


class FigureReader(Protocol):
    """What was measured so far, by all processes that serve one port. Its calls block; make them in a thread.

    `queues` is how many wait in each of the store's queues, which no meter counts.
    """

    def text(self, queues: Mapping[str, int]) -> bytes:
        """In Prometheus's text format 0.0.4."""

    def summary(self, queues: Mapping[str, int]) -> Mapping[str, object]:
        """As an object that JSON can say."""
