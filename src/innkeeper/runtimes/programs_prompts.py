"""Prompts: what a program is told of a conversation, and how it is handed over.

A program may remember a conversation itself. Whether it remembers this one is told by a digest of what it has heard, so
that an edited message, a branch, or a turn of another agent is never lost on it: it is told the whole then.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed
from innkeeper.core.messages import Message
from innkeeper.core.usage import Usage
from innkeeper.runtimes.programs import Program
from innkeeper.runtimes.programs_terminals import MAX_LINE, typed

MAX_ARGUMENT = 120 * 1024
"""Bytes of one argument; Linux takes 128 KiB."""

_HEADINGS = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True, slots=True)
class Place:
    """Whose conversation it is. Two tenants never share a program's memory."""

    owner: object
    user_id: str | None
    session_id: str | None

    @classmethod
    def of(cls, context: RunContext) -> Place:
        return cls(context.owner, context.user_id, context.session_id)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a program remembers: the conversation of that digest, under its own name `session`, in `folder`."""

    digest: bytes
    session: str = ""
    folder: Path | None = None
    used: Usage = field(default_factory=Usage)


def digest(messages: Sequence[Message]) -> bytes:
    """Equal where the same has been said. White space and the pieces of an answer do not count, as between the parts
    of one the server puts empty lines.
    """
    said, before = hashlib.blake2b(digest_size=16), ""
    for message in messages:
        if message.role in _HEADINGS and (text := "".join(_told(message).split())):
            if message.role != "assistant" or before != "assistant":
                said.update(f"\0{message.role}\0".encode())
            said.update(text.encode(errors="replace"))
            before = message.role
    return said.digest()


def unanswered(messages: Sequence[Message]) -> int:
    """Where the user's last messages begin."""
    place = len(messages)
    while place and messages[place - 1].role == "user":
        place -= 1
    return place


def heard(messages: Sequence[Message], known: bytes) -> int | None:
    """Where what is new begins for who has heard what has that digest; `None` where something else was said.

    An empty answer leaves no message behind, so that some of the user's last ones may have been heard.
    """
    for place in range(len(messages) - 1, unanswered(messages) - 1, -1):
        if digest(messages[:place]) == known:
            return place
    return None


def worded(messages: Sequence[Message], known: int | None) -> str:
    """The messages from the place `known` on, or a transcript of all where nothing is known.

    What cannot be told is left out of what was said before, so that it fails one turn and not all that follow.
    """
    texts = [*(_told(one).replace("\0", "") for one in messages[:-1]), *map(_told, messages[-1:])]
    if known is not None or not any(texts[: unanswered(messages)]):
        return "\n\n".join(texts[known or 0 :])
    told = zip(messages, texts, strict=True)
    return "\n\n".join(f"{_HEADINGS[one.role]}: {text}" for one, text in told if one.role in _HEADINGS and text)


def _told(message: Message) -> str:
    others = () if isinstance(message.content, str) else message.content or ()
    left_out = [f"[{part.get('type')}: left out]" for part in others if part.get("type") != "text"]
    return "\n".join(filter(None, (message.text, *left_out)))


def session_of(name: str | None) -> str:
    """A program's own name of a conversation, if it can be an argument."""
    return name if name is not None and _SESSION.fullmatch(name) else ""


def checked(prompt: str) -> str:
    """Raises: AgentFailed."""
    if "\0" in prompt:
        raise AgentFailed("cannot be told a prompt with a NUL character in it.")
    return prompt


def command(program: Program, prompt: str, session: str, file: Path | None) -> list[str]:
    """The words to start it with. Raises: AgentFailed for a prompt that no argument can hold."""
    words = list(program.command)
    if session:
        words += [word.replace("{session}", session) for word in program.resume]
    words += program.tail
    if program.prompt == "argument":
        if len(prompt.encode(errors="replace")) > MAX_ARGUMENT:
            raise AgentFailed(
                f"cannot be told a prompt of more than {MAX_ARGUMENT // 1024} KiB as an argument; prompt='stdin' or"
                " prompt='file' has no such limit."
            )
        if not any("{prompt}" in word for word in words):
            words.append("{prompt}")
        words = [_filled(word, prompt) for word in words]
    return [word.replace("{file}", str(file)) for word in words] if file is not None else words


def _filled(word: str, prompt: str) -> str:
    # Whatever parses the arguments, what begins with a space is no option.
    safe = f" {prompt}" if word.startswith("{prompt}") and prompt.startswith("-") else prompt
    return word.replace("{prompt}", safe)


def line(program: Program, prompt: str, messages: Sequence[Message], context: RunContext) -> str:
    """One prompt for a process that answers many."""
    if program.output == "text":
        return " ".join(prompt.split("\n")).replace("\r", " ") + "\n"
    if program.output == "claude":
        said = {"type": "user", "message": {"role": "user", "content": prompt}, "parent_tool_use_id": None}
        return json.dumps({**said, "session_id": context.session_id or ""}) + "\n"
    told = {"type": "prompt", "text": prompt, "session_id": context.session_id, "run_id": context.run_id}
    return json.dumps({**told, "messages": [one.as_dict() for one in messages if not one.is_internal]}) + "\n"


def keyed(text: str) -> bytes:
    """`text` as it is typed into a terminal. Raises: AgentFailed for a line that no terminal takes."""
    text = typed(text)
    if any(len(one.encode(errors="replace")) > MAX_LINE for one in text.split("\n")):
        raise AgentFailed(
            f"cannot be told a line of more than {MAX_LINE} bytes through a terminal; prompt='file' has no such limit."
        )
    return (text if text.endswith("\n") else f"{text}\n").encode(errors="replace")
