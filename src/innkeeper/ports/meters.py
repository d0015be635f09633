"""What is measured while the server works. Adapters count; nothing here decides, waits or fails."""

from __future__ import annotations

from typing import Protocol

from innkeeper.core.usage import Usage


class Meter(Protocol):
    """Takes figures as they come; seconds everywhere. Every call is cheap and never raises."""

    def run_began(self, agent_name: str) -> None:
        """Its first line of agent code is executed."""

    def first_text(self, agent_name: str, seconds: float) -> None:
        """The first text of a run, that long after it began."""

    def run_ended(self, agent_name: str, status: str, seconds: float, usage: Usage | None) -> None: ...

    def command_ended(self, status: str, seconds: float) -> None: ...

    def committed(self, seconds: float) -> None:
        """A commit of the store, from its call to its answer."""
