"""Neighbours: what runs tell those who stand beside them, and ask of them, without knowing who they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from innkeeper.core.context import SessionTool
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.runs import Run
from innkeeper.core.workspaces import Workspace


def _nothing(*_: object) -> None:
    """Nobody wants to hear of it."""


@dataclass(slots=True)
class Neighbours:
    """Set while the services of one process are put together, before anything runs."""

    on_work: Callable[[], None] = _nothing
    """Others say that there may be something to take."""
    on_look: Callable[[], None] = _nothing
    """Others have asked this process to end something."""
    on_growth: Callable[[str], None] = _nothing
    """The log of the session with this key has grown."""
    tools_of: Callable[[Run], Awaitable[Sequence[SessionTool]]] | None = None
    """The tools that were registered in a run's session; `None` where there cannot be any."""
    check_attachments: Callable[[Caller, Sequence[Message]], Awaitable[None]] | None = None
    """Refuses messages that name files which are not the caller's."""
    attached: Callable[[Run, Sequence[Message]], Awaitable[tuple[Message, ...]]] | None = None
    """Messages with the files in them that they name."""
    workspaces_of: Callable[[Run], tuple[Workspace, Workspace]] | None = None
    """The workspaces of a run's session and of its agent."""
