"""The runtime for a `Program`: a process for each turn, or one that is kept for a session.

What a program is told is made by `programs_prompts`, what it prints is read by `programs_formats`, and `programs_halls`
knows which processes wait for another turn. Invariant: when a run has ended, nothing works for it any more, but what is
kept; and what is kept has heard exactly the conversation that it goes on with.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import re
import weakref
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from innkeeper.core.agents import AgentDescription
from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed, AgentTimedOut
from innkeeper.core.events import AgentEvent
from innkeeper.core.messages import Message
from innkeeper.core.runs import Turn
from innkeeper.runtimes import programs_prompts as prompts
from innkeeper.runtimes.functions import pricing_of
from innkeeper.runtimes.programs import Program
from innkeeper.runtimes.programs_codex import CodexLines
from innkeeper.runtimes.programs_environments import environment, found
from innkeeper.runtimes.programs_folders import Folder
from innkeeper.runtimes.programs_formats import Lines, Reading, Teller, Text
from innkeeper.runtimes.programs_halls import Hall, Kept
from innkeeper.runtimes.programs_presets import TELLERS
from innkeeper.runtimes.programs_processes import Launch, Process
from innkeeper.runtimes.programs_prompts import Memory, Place
from innkeeper.runtimes.programs_tellings import Telling
from innkeeper.runtimes.programs_terminals import END_OF_INPUT, Echo, Screen, typed
from innkeeper.runtimes.settings import RuntimeSettings

_logger = logging.getLogger(__name__)

_LINGER = 5.0
"""Seconds for which a process may go on after its answer has ended."""
_LOCKED_OUT = re.compile(
    r"\b40[13]\b|log(?:ged)? ?in|unauthori[sz]ed|authenticat|auth method|api[ _-]?key", re.IGNORECASE
)
_REMEMBERED = 4096
"""Conversations of which a runtime knows how the program calls them."""


class ProgramRuntime:
    """Hosts `program` as the agent `name`. What is missing is told in the log, and fails runs until it is there."""

    kind = "program"

    def __init__(self, program: Program, name: str, settings: RuntimeSettings) -> None:
        self._program = program
        self._name = name
        self._settings = settings
        self._hall: Hall | None = None
        self._memories: OrderedDict[Place, Memory] = OrderedDict()
        if settings.environment and found(program, environment(program, settings.environment)) is None:
            _logger.warning("agent %s: the program %s %s", name, program.command[0], self._missing().message)
        _runtimes.add(self)

    def describe(self) -> AgentDescription:
        program = self._program
        return AgentDescription(
            self._name,
            model=program.model,
            description=program.description,
            provider=program.provider,
            pricing=pricing_of(program),
        )

    async def run(self, turn: Turn, context: RunContext) -> AsyncGenerator[AgentEvent | str, None]:
        injected = [Message("user", message.content) async for message in context.injections()]
        told = Telling((*turn.messages, *injected), context, self._program.timeout)
        play = self._play_kept if self._program.kept else self._play_anyhow
        try:
            async with aclosing(play(told)) as events:
                async for event in events:
                    yield event
        except AgentTimedOut:
            raise
        except AgentFailed as error:
            raise AgentFailed(self._failed(error, told)) from error

    async def close(self) -> None:
        """End the processes that are kept."""
        hall = self._hall
        if hall is not None and hall.loop is asyncio.get_running_loop():
            await hall.close()

    def forget(self, session_key: str) -> None:
        """End what is kept for a session; for any thread."""
        hall = self._hall
        if hall is not None and not hall.loop.is_closed():
            hall.loop.call_soon_threadsafe(hall.forget, session_key)

    # a process for a turn

    async def _play_anyhow(self, told: Telling) -> AsyncGenerator[AgentEvent, None]:
        """Programs forget, too: one that cannot go on with its conversation is told it, once."""
        try:
            async with aclosing(self._play(told)) as events:
                async for event in events:
                    yield event
        except AgentTimedOut:
            raise
        except AgentFailed as error:
            if told.memory is None or told.has_told:
                raise
            _logger.warning("agent %s is told all again: %s", self._name, self._failed(error, told))
            told.begin_again()
            async with aclosing(self._play(told)) as events:
                async for event in events:
                    yield event

    async def _play(self, told: Telling) -> AsyncGenerator[AgentEvent, None]:
        hall = self._hall_here()
        await told.within(hall.enter(told.place))
        kept: Kept | None = None
        try:
            kept = await self._begun(told)
            assert told.folder is not None
            reading = self._reading(told)
            async with aclosing(self._events(told, kept.process, reading)) as events:
                async for event in events:
                    yield event
            try:
                for event in reading.end():
                    yield told.heard(event)
            except AgentFailed as error:
                raise await _with_code(error, kept.process) from error
            await self._ended(told, kept.process)
            self._remember(told, reading)
        finally:
            told.stop()
            if kept is not None:
                told.last_words = _words(kept.process)
                await _let_go(hall, kept)
            hall.leave(told.place)

    def _remember(self, told: Telling, reading: Reading) -> None:
        if session := prompts.session_of(reading.resumes):
            assert told.folder is not None
            teller = getattr(reading, "teller", None)
            used = teller.total if isinstance(teller, CodexLines) else None
            memory = Memory(told.digest(), session, self._here(told.folder))
            self._memories[told.place] = memory if used is None else replace(memory, used=used)
            while len(self._memories) > _REMEMBERED:
                self._memories.popitem(last=False)

    async def _ended(self, told: Telling, process: Process) -> None:
        """Wait for a program that has said everything. Raises: AgentFailed unless it ends well."""
        code = await process.ended(_LINGER)
        if code is None:
            _logger.warning("the program of agent %s went on after its answer, and is ended", self._name)
        elif code:
            raise AgentFailed(f"ended with the exit code {code}.")

    # one that is kept

    async def _play_kept(self, told: Telling) -> AsyncGenerator[AgentEvent, None]:
        hall = self._hall_here()
        kept = await told.within(hall.enter(told.place))
        is_done = False
        try:
            known = None if kept is None else await self._known(kept, told)
            if kept is not None and known is None:
                hall.dismiss(kept)
                kept = None
            kept = kept or await self._begun(told)
            async with aclosing(self._exchange(told, kept, known)) as events:
                async for event in events:
                    yield event
            kept.digest = told.digest()
            await kept.folder.keep(told.context)
            is_done = True
        finally:
            told.stop()
            if kept is not None:
                told.last_words = _words(kept.process)
            if kept is not None and not is_done:
                hall.dismiss(kept)
            hall.leave(told.place, kept if is_done else None)

    async def _known(self, kept: Kept, told: Telling) -> int | None:
        """Where what is new for a process begins; `None` if it has heard something else, or listens no more."""
        return self._since(told, kept.digest) if await kept.process.skip() else None

    def _since(self, told: Telling, digest: bytes | None) -> int | None:
        """Where what is told begins, for a program that has heard the conversation of that digest."""
        if self._program.history == "last":
            return prompts.unanswered(told.messages)
        return None if digest is None else prompts.heard(told.messages, digest)

    async def _exchange(self, told: Telling, kept: Kept, known: int | None) -> AsyncGenerator[AgentEvent, None]:
        """A prompt and its answer."""
        program, process = self._program, kept.process
        prompt = prompts.checked(prompts.worded(told.messages, self._since(told, None) if known is None else known))
        line = prompts.line(program, prompt, told.messages, told.context)
        told.write(process, prompts.keyed(line) if program.terminal else line.encode(errors="replace"))
        reading = self._reading(told)
        async with aclosing(self._events(told, process, reading, echo=line)) as events:
            async for event in events:
                yield event
        if not reading.is_over:
            for event in reading.end():
                yield told.heard(event)

    # what both do

    def _hall_here(self) -> Hall:
        hall = self._hall
        if hall is None or hall.loop is not asyncio.get_running_loop():
            if hall is not None and hall.loop.is_closed():
                hall.abandon()
            hall = self._hall = Hall(self._program.most, self._program.idle_seconds)
        return hall

    async def _begun(self, told: Telling) -> Kept:
        """A process that has just been started, and told its prompt unless it is kept."""
        program = self._program
        folder = told.folder = await Folder.open(told.context, program.folder)
        process: Process | None = None
        try:
            variables = environment(program, self._settings.environment, told.context)
            path = await asyncio.to_thread(found, program, variables)
            if path is None:
                raise self._missing()
            words, data = ([*program.command, *program.tail], b"") if program.kept else await self._told(told)
            launch = Launch((path, *words[1:]), folder.path, variables, program.terminal, program.prompt == "stdin")
            process = await Process.start(launch)
            if not program.kept:
                told.write(process, data, is_all=program.prompt == "stdin")
            elif program.greets:
                await self._greeted(told, process)
        except BaseException:
            if process is not None:
                told.last_words = _words(process)
                process.end()
            await folder.leave()
            raise
        return Kept(process, folder, session_key=told.context.session_key)

    async def _told(self, told: Telling) -> tuple[list[str], bytes]:
        """The words to start a process for this turn with, and what it reads."""
        program = self._program
        known = self._since(told, self._remembered(told))
        prompt = prompts.checked(prompts.worded(told.messages, known))
        if program.prompt == "file":
            told.file = await told.in_file(prompt)
        words = prompts.command(program, prompt, told.memory.session if told.memory else "", told.file)
        if program.prompt != "stdin":
            return words, b""
        return words, prompts.keyed(prompt) + END_OF_INPUT if program.terminal else prompt.encode(errors="replace")

    async def _greeted(self, told: Telling, process: Process) -> None:
        reading = Text(self._program.end)
        async with aclosing(self._events(told, process, reading)) as events:
            async for _ in events:
                pass
        if not reading.is_over:
            raise AgentFailed("ended before it took a prompt.")
        told.said.clear()

    async def _events(
        self, told: Telling, process: Process, reading: Reading, echo: str = ""
    ) -> AsyncGenerator[AgentEvent, None]:
        """What is read of one turn, until it is over or the output ends."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        screen = Screen() if self._program.terminal else None
        repeated = Echo(typed(echo)) if screen is not None and echo else None
        size, is_last = 0, False
        while not is_last and not (reading.is_over and self._program.kept):
            chunk = await told.within(process.read())
            size, is_last = size + len(chunk), not chunk
            if size > self._program.max_output:
                raise AgentFailed(f"printed more than {self._program.max_output} bytes in one turn.")
            text = decode(chunk, is_last)
            if screen is not None:
                text = screen.shown(text, is_last=is_last)
            if repeated is not None:
                text = repeated.heard(text, is_last=is_last)
            for event in reading.read(text):
                yield told.heard(event)
            self._note(told, reading)

    def _note(self, told: Telling, reading: Reading) -> None:
        """Log what goes wrong while the program goes on, as it may do so until somebody looks."""
        if not told.has_complained and (complaint := getattr(getattr(reading, "teller", None), "complaint", None)):
            told.has_complained = True
            _logger.warning("the program of agent %s goes on, but says: %s", self._name, complaint)

    def _reading(self, told: Telling) -> Reading:
        program = self._program
        if program.output == "text":
            return Text(program.end if program.kept else None)
        teller: Teller = TELLERS[program.output](f"{uuid4().hex[:8]}-")
        if isinstance(teller, CodexLines) and told.memory is not None:
            teller.before = told.memory.used
        return Lines(teller)

    def _remembered(self, told: Telling) -> bytes | None:
        """The digest of what the program remembers, where it works as where it had heard it."""
        memory = self._memories.pop(told.place, None)
        assert told.folder is not None
        if memory is None or self._program.history != "resume" or memory.folder != self._here(told.folder):
            return None
        told.memory = memory if prompts.heard(told.messages, memory.digest) is not None else None
        return memory.digest

    def _here(self, folder: Folder) -> Path | None:
        """Where the program finds its own conversations again."""
        return None if self._program.roams else folder.path

    def _failed(self, error: AgentFailed, told: Telling) -> str:
        reason = f"The program {self._program.command[0]} {error.message}"
        keys = [name for name in self._program.env_names if name.endswith(("_KEY", "_TOKEN"))]
        if keys and _LOCKED_OUT.search(reason + told.last_words):
            reason += f" (Log it in as the user of the server, or set a valid key: {', '.join(keys)}.)"
        return reason + told.last_words

    def _missing(self) -> AgentFailed:
        remedy = self._program.remedy or "Install it, or give the path of its file"
        return AgentFailed(f"was not found. {remedy}.")


async def _with_code(error: AgentFailed, process: Process) -> AgentFailed:
    """What it wrote to its standard error is all read then, too."""
    code = await process.ended(_LINGER)
    return AgentFailed(f"{error.message.rstrip('.')}, with the exit code {code}.") if code else error


async def _let_go(hall: Hall, kept: Kept) -> None:
    """End what is left of it; a run that was stopped does not wait for that."""
    if kept.process.exit.done():
        kept.process.end()
        await kept.folder.leave()
    else:
        hall.dismiss(kept)


def _words(process: Process) -> str:
    """The end of what it wrote to its standard error, for the log."""
    words = " / ".join(filter(None, (line.strip() for line in Screen().shown(process.last_words).split("\n"))))
    return f" It wrote: {words}" if words else ""


_runtimes: weakref.WeakSet[ProgramRuntime] = weakref.WeakSet()
"""Those of this process, so that the end of a session, or of the server, reaches what is kept."""


def forget(session_key: str) -> None:
    """End the processes that are kept for a session which has been deleted."""
    for runtime in list(_runtimes):
        runtime.forget(session_key)


async def close() -> None:
    """End the processes that are kept on this event loop."""
    await asyncio.gather(*(runtime.close() for runtime in list(_runtimes)))
