"""Sessions: one conversation of one owner. A session's messages form a tree; its head is the current leaf.

Messages are numbered by `position` in the order in which they were stored. A branch begins where a client
went back; a conversation that never did has one branch, and its history is simply its messages in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from innkeeper.core.identity import Owner
from innkeeper.core.messages import Message
from innkeeper.core.times import Instant


@dataclass(frozen=True, slots=True)
class Head:
    """The leaf on which the next turn continues; position 0 is an empty conversation.

    `depth` counts the messages from the root up to and including this one.
    """

    position: int = 0
    branch: int = 0
    chain: str = ""
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """`key` is internal and unique; `id` is what clients call it, unique for one owner and end user."""

    key: str
    owner: Owner
    user_id: str
    id: str
    created_at: Instant
    updated_at: Instant
    agent_name: str | None = None
    title: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    archived: bool = False
    message_count: int = 0
    last_message_at: Instant | None = None
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message in its place."""

    position: int
    run_id: str | None
    message: Message
    created_at: Instant


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which messages a history consists of: from each branch, those up to and including a position."""

    session_key: str
    spans: tuple[tuple[int, int], ...]
    head: Head
