"""Tellings: one turn of a program under way: what is told, what has been said, and until when."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TypeVar

from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentTimedOut
from innkeeper.core.events import AgentEvent, TextDelta
from innkeeper.core.messages import Message
from innkeeper.runtimes.programs_folders import Folder
from innkeeper.runtimes.programs_processes import Process
from innkeeper.runtimes.programs_prompts import Memory, Place, digest

T = TypeVar("T")


class Telling:
    """`memory` is what the program remembers of the conversation, `last_words` what it wrote to its standard error."""

    def __init__(self, messages: Sequence[Message], context: RunContext, seconds: float | None) -> None:
        self.messages = messages
        self.context = context
        self.place = Place.of(context)
        self.said: list[str] = []
        self.memory: Memory | None = None
        self.folder: Folder | None = None
        self.file: Path | None = None
        self.last_words = ""
        self.has_told = self.has_complained = False
        self._seconds = seconds
        self._deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._writing: asyncio.Task[None] | None = None

    def begin_again(self) -> None:
        """Nothing has been told yet, and the program knows of nothing."""
        self.memory = self.folder = self.file = None
        self.last_words = ""

    def heard(self, event: AgentEvent) -> AgentEvent:
        self.has_told = True
        if isinstance(event, TextDelta):
            self.said.append(event.content)
        return event

    def digest(self) -> bytes:
        """Of the conversation with what has been said now."""
        return digest((*self.messages, Message("assistant", "".join(self.said))))

    async def within(self, waiting: Awaitable[T]) -> T:
        """Raises: AgentTimedOut when the turn has taken as long as it may."""
        if self._deadline is None:
            return await waiting
        try:
            async with asyncio.timeout_at(self._deadline):
                return await waiting
        except TimeoutError:
            raise AgentTimedOut(f"The program did not answer within {self._seconds:g} s.") from None

    def write(self, process: Process, data: bytes, *, is_all: bool = False) -> None:
        """Hand over what it reads while it is at work already: it may answer before it has read it, or never read."""
        self._writing = asyncio.get_running_loop().create_task(_written(process, data, is_all))

    async def in_file(self, prompt: str) -> Path:
        self.file = await asyncio.to_thread(_in_file, prompt)
        return self.file

    def stop(self) -> None:
        """The turn is over: nothing is handed over any more."""
        if self._writing is not None:
            self._writing.cancel()
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.unlink()


async def _written(process: Process, data: bytes, is_all: bool) -> None:
    await process.write(data)
    if is_all:
        process.close_input()


def _in_file(prompt: str) -> Path:
    with tempfile.NamedTemporaryFile(
        "w", prefix="innkeeper-prompt-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write(prompt)
    return Path(file.name)
