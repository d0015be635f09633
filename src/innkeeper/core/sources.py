"""Sources: tools and handlers that clients registered as Python source, each in one session.

They are parsed when they are registered and executed in a sandbox only, never in the server's own process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from innkeeper.core.times import Instant

HandlerKind = Literal["command", "event"]

MAX_SOURCE = 256 * 1024
"""Characters of source code."""
MAX_TOOLS, MAX_HANDLERS = 100, 100
"""A session's."""
MAX_STATE_NAMES, MAX_STATE_VALUE = 1000, 64 * 1024
"""Names that code of a session may put values aside under, and bytes of JSON of each."""


@dataclass(frozen=True, slots=True)
class ToolDeclaration:
    """A tool of a session as callers and models see it; `parameters` is the JSON schema of its arguments."""

    session_key: str
    name: str
    description: str
    parameters: Mapping[str, object]
    created_at: Instant


@dataclass(frozen=True, slots=True)
class SourceTool(ToolDeclaration):
    """With its source, and the name of the function in it."""

    function: str
    source: str


@dataclass(frozen=True, slots=True)
class HandlerDeclaration:
    """A handler of a session for commands or events of one type."""

    id: str
    session_key: str
    kind: HandlerKind
    type: str
    created_at: Instant


@dataclass(frozen=True, slots=True)
class SourceHandler(HandlerDeclaration):
    """With its source, and the name of the function in it."""

    function: str
    source: str
