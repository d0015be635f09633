"""Transcripts: how the messages that a client sends join the conversation that is stored.

A chat-completions client may send only its new turn or everything it remembers. The last user message (or
the trailing tool results) is always new; what stands before it is compared with the store as a chain of
hashes. Instructions take no part: they are the client's to send or leave out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from innkeeper.core.messages import Message, chain
from innkeeper.core.sessions import Head

HistoryMode = Literal["auto", "append", "replace", "extend"]
"""How a transcript joins what is stored. To `extend` is to take nothing of it for known: all of it is new."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """A request's messages, sorted: `instructions`, what was said `before`, and the `new` turn."""

    instructions: tuple[Message, ...]
    before: tuple[Message, ...]
    new: tuple[Message, ...]

    @property
    def links(self) -> tuple[str, ...]:
        """The chain hash after each message of `before`."""
        link, found = "", []
        for message in self.before:
            link = chain(link, message)
            found.append(link)
        return tuple(found)


def sort(messages: Sequence[Message]) -> Transcript:
    """Split a request's messages into instructions, earlier conversation and the new turn."""
    instructions = tuple(message for message in messages if message.is_instruction)
    spoken = [message for message in messages if not message.is_instruction]
    start = _start_of_turn(spoken)
    return Transcript(instructions, tuple(spoken[:start]), tuple(spoken[start:]))


def _start_of_turn(spoken: Sequence[Message]) -> int:
    start = len(spoken)
    while start and spoken[start - 1].role == "tool":
        start -= 1
    if start < len(spoken):
        return start
    users = [index for index, message in enumerate(spoken) if message.role == "user"]
    return users[-1] if users else 0


@dataclass(frozen=True, slots=True)
class Joined:
    """Where a turn begins: on top of `onto` (`None` is the head; position 0 is the root), with `added` messages."""

    onto: Head | None
    added: tuple[Message, ...]


def join(transcript: Transcript, mode: HistoryMode, head: Head, known: Mapping[str, Head]) -> Joined:
    """Decide where the turn goes. `known` maps those links of the transcript that are stored to their places."""
    before, new = transcript.before, transcript.new
    if mode == "extend":
        return Joined(None, before + new)
    if mode == "append" or (mode == "auto" and not before):
        return Joined(None, before + new if mode == "auto" or not head.position else new)
    if mode == "replace":
        return Joined(Head(), before + new)
    links = transcript.links
    for index in range(len(links), 0, -1):
        link = links[index - 1]
        rest = before[index:] + new
        if link == head.chain:
            return Joined(None, rest)
        if link in known:
            return Joined(known[link], rest)
    if any(message.role == "assistant" for message in before):
        return Joined(Head(), before + new)
    return Joined(None, before + new)


def as_turn(history: Sequence[Message]) -> tuple[Message, ...]:
    """A stored conversation as an agent should see it: the instructions last given first, then what was said."""
    latest: list[Message] = []
    follows = False
    for message in history:
        if message.is_instruction:
            latest = [*latest, message] if follows else [message]
        follows = message.is_instruction
    return (*latest, *(message for message in history if not message.is_instruction))
